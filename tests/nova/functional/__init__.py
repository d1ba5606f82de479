"""nova's own functional fixtures, unmodified, on the simulator: API, conductor, scheduler, compute and placement.

`tests/nova/run --functional` runs these tests. One process has the simulator, too, whose threads eventlet would take
over. nova decides for threads or for eventlet when its tests are imported: before any other of its modules.
"""

import os

os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "true"

import nova.tests.functional  # noqa: F401  # reads the variable
