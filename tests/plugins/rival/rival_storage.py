"""Another package's driver for a name that we have as well."""

from xenvol.drivers.base import VolumeDriver


class RivalDriver(VolumeDriver):
    def connect_volume(self, connection_data):
        return self.session.xenapi.VDI.get_by_uuid(connection_data["vdi_uuid"])

    def disconnect_volume(self, connection_data):
        pass
