"""A nova driver for the hosts of a XenAPI pool, whose servers boot from volumes: `compute_driver = xenvol.Driver`."""

from nova.virt.xenvol.driver import Driver as Driver
