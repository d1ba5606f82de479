"""xenvol driver for disks on SMB shares."""
