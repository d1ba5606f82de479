"""nova's own functional fixtures, unmodified, on the simulator: API, conductor, scheduler, compute and placement.

`tests/nova/run --functional` runs these tests. They are in one process with the simulator, whose threads eventlet would
take over. nova decides for threads or eventlet as soon as its tests are imported, so this comes before any other module.
"""

import os

os.environ["OS_NOVA_DISABLE_EVENTLET_PATCHING"] = "true"

import nova.tests.functional  # noqa: F401  # reads the variable
