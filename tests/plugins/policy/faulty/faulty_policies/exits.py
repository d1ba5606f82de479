"""It takes the whole process with it, if it is let."""

import sys

sys.exit("no licence")
