"""xapi's HTTP handlers for whole disks: ``PUT /import_raw_vdi``, ``GET /export_raw_vdi``.

docs/background/xapi.md 4.8; trace sm/30.
"""
