"""Attach a volume to a running VM and detach it again, on a simulated pool; yours takes its own URL and password."""

import xenvol
from xenvol.simulator import Simulator
from xenvol.volumeops import VolumeOps

# What the block-storage service answered.
connection_info = {
    "driver_volume_type": "iscsi",
    "data": {
        "volume_id": "volume-1",
        "target_portal": "10.0.0.10:3260",
        "target_iqn": "iqn.2010-10.org.openstack:volumes",
        "target_lun": 0,
        "auth_method": "CHAP",
        "auth_username": "cinder",
        "auth_password": "chap-password",
    },
}

with Simulator(world="demo") as xapi, xenvol.connect(xapi.url, xapi.user, xapi.password) as session:
    ops = VolumeOps(session)
    attachment = ops.attach_volume(connection_info, "web", "/dev/xvdc")
    print(f"{attachment.volume_id} is /dev/{attachment.device} of web")
    ops.detach_volume(connection_info, "web", attachment_id=attachment.attachment_id)
    print(f"{attachment.volume_id} is detached")
