"""Readers of image formats: each gives `DiskImage`s, and none knows what becomes of them."""
