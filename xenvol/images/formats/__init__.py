"""Readers of image formats. Each gives a `DiskImage`, and knows no transport."""
