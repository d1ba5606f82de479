"""What stevedore lets through unhandled."""

raise AssertionError("not on this platform")
