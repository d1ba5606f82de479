"""xapi's doors for whole disks: ``PUT /import_raw_vdi``, ``GET /export_raw_vdi`` (facts/xapi.md 4.8, trace sm/30)."""
