"""nova's own functional fixtures, unmodified, on the simulator: API, conductor, compute and placement in one process.

The names of the tests are here, since `python -m unittest` finds no files in a package without them.
"""
