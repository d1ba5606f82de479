"""OpenStack Cinder: `XenSMDriver`, a volume driver that translates Cinder's calls into the Storage Manager's."""

from xenvol.cinder.driver import XenSMDriver

__all__ = ["XenSMDriver"]
