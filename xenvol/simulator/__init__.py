"""A xapi simulator on the wire: the library and storage drivers are tested against it.

It follows xapi's rules and shares no code with the library. Most tests need only ``with Simulator() as xapi:
...``.
"""

from xenvol.simulator.simulator import Simulator

__all__ = ["Simulator"]
