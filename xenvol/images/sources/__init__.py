"""The sources of images: files, streams and URLs, compressed or not, and the temporary files that some formats need."""
