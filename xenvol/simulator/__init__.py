"""A xapi made of rules, on the wire: what the library, and whoever writes a driver, is tested against.

It shares no code with the library. ``with Simulator() as xapi: ...`` is all that most need to know.
"""

from xenvol.simulator.simulator import Simulator

__all__ = ["Simulator"]
