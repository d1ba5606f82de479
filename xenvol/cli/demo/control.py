"""The control experiment: what a pool keeps when the bare XenAPI client plugs the same storage, without xenvol.

xapi and its storage drivers leave traces of their own at a plug: a key on the control domain, an empty mount directory,
a file by which the driver tested the server. No list here says which. A second pool introduces, plugs, unplugs and
forgets the same storage without xenvol, and what is left there is the pool's own doing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import XenAPI

from xenvol.cli.demo.volumes import CHAP, GLUSTER, NFS, TARGET
from xenvol.simulator import Simulator

_SRS = (
    (
        "6f1f3a3e-3a0f-4e0a-9a3e-0c1f6f8f0a00",
        "iscsi",
        {"target": TARGET["portal"], "port": TARGET["port"], "targetIQN": TARGET["iqn"], "chapuser": CHAP[0]},
    ),
    (NFS["sr_uuid"], "nfs", {"server": NFS["server"], "serverpath": NFS["path"]}),
    (GLUSTER["sr_uuid"], "glusterfs", {"server": f"{GLUSTER['server']}:/{GLUSTER['volume']}"}),
)
_HOSTS = ("xen1", "xen2")
"""The hosts on which xenvol plugs: the master, and the host of the VM."""


def traces_of_the_bare_client() -> list[str]:
    """Return what differs in a pool of the world `demo` after the control experiment."""
    with Simulator(world="demo") as simulator:
        before = simulator.snapshot()
        session = XenAPI.Session(simulator.url)
        session.login_with_password(simulator.user, simulator.password, "1.0", "demo")
        for sr_uuid, sr_type, device_config in _SRS:
            _show_and_forget(session.xenapi, sr_uuid, sr_type, device_config)
        session.logout()
        session("close")()
        return before.difference(simulator.snapshot())


def _show_and_forget(xapi: XenAPI.Session, sr_uuid: str, sr_type: str, device_config: dict[str, str]) -> None:
    sr_ref = xapi.SR.introduce(sr_uuid, "control", "", sr_type, "user", True, {})
    pbd_refs = []
    for name in _HOSTS:
        (host_ref,) = xapi.host.get_by_name_label(name)
        config = dict(device_config)
        if "chapuser" in config:
            secret_ref = xapi.secret.create({"value": CHAP[1], "other_config": {}})
            config["chappassword_secret"] = xapi.secret.get_uuid(secret_ref)
        pbd_refs.append(
            xapi.PBD.create({"SR": sr_ref, "host": host_ref, "device_config": config, "other_config": {}})
        )
        if "chapuser" in config:
            xapi.secret.destroy(secret_ref)
    for pbd_ref in pbd_refs:
        xapi.PBD.plug(pbd_ref)
    for pbd_ref in reversed(pbd_refs):
        xapi.PBD.unplug(pbd_ref)
    xapi.SR.forget(sr_ref)


def split(difference: Iterable[str], control: Iterable[str]) -> tuple[list[str], list[str]]:
    """Split a difference into lines that the control lacks, and lines that it has. References and uuids are ignored."""
    theirs = Counter(map(anonymous, control))
    ours, known = [], []
    for line in difference:
        name = anonymous(line)
        if theirs[name]:
            theirs[name] -= 1
            known.append(line)
        else:
            ours.append(line)
    return ours, known


def anonymous(line: str) -> str:
    """Return a line of a difference without references and uuids, which differ from pool to pool."""
    return _IDENTITY.sub("…", line)


_IDENTITY = re.compile(r"OpaqueRef:[0-9a-f-]{36}|(?:[A-Z]+ )?\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
