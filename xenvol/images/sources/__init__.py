"""Where images come from: files, streams and URLs, compressed or not, and what has to lie on a disk to be read."""
