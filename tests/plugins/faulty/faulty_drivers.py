"""Drivers that can be imported and break the contract."""

from xenvol.drivers.base import VolumeDriver


def not_a_class(session, *, hosts=None):
    return session


class ForgetsRollback:
    def __init__(self, session, *, hosts=None):
        self.session = session

    def connect_volume(self, connection_data):
        return connection_data

    def disconnect_volume(self, connection_data):
        pass


class LeavesAbstract(VolumeDriver):
    def connect_volume(self, connection_data):
        return connection_data


class WantsTwo(VolumeDriver):
    def connect_volume(self, connection_info, instance):
        return connection_info

    def disconnect_volume(self, connection_data):
        pass
