"""The tables: the columns of nova-volume's (docs/background/peers.md e.4), and those that xenvol needs besides.

A deleted flavor, backend or volume keeps its row. `deleted` is 0 in a live row, and unique in a deleted one, so that a
label or a VDI is unique among live rows. Times are UTC. Sizes are bytes.

`migrations/versions` makes these tables; a test compares the two.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

REVISION = "0002"
"""The last of the migrations."""

ID = 255


def text(length: int) -> sa.String:
    """Return a type that compares bytes. MariaDB would take ``Gold`` for ``gold``, and, padding, ``a `` for ``a``."""
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mysql", "mariadb"
    )


def moment() -> sa.DateTime:
    """Return a type with microseconds; MariaDB would keep whole seconds."""
    return sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def _common() -> list[sa.Column[object]]:
    return [
        sa.Column("created_at", moment(), nullable=False),
        sa.Column("updated_at", moment()),
        sa.Column("deleted_at", moment()),
        sa.Column("deleted", sa.BigInteger, nullable=False, default=0),
    ]


flavors = sa.Table(
    "sm_flavors",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("label", text(ID), nullable=False),
    sa.Column("description", text(255), nullable=False),
    sa.Column("policy", text(64), nullable=False),  # an entry point of xenvol.sm.policies
    sa.Column("over_subscription", sa.Float, nullable=False),  # of thin backends
    sa.Column("reserved_percentage", sa.Integer, nullable=False),  # of each backend, kept free
    *_common(),
    sa.UniqueConstraint("label", "deleted"),
)

backends = sa.Table(
    "sm_backend_config",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("flavor_id", sa.Integer, sa.ForeignKey("sm_flavors.id"), nullable=False),
    sa.Column("sr_uuid", text(255)),  # NULL until the SR is made
    sa.Column("sr_type", text(255), nullable=False),
    sa.Column("config_params", text(2047), nullable=False),  # no secrets: `xenvol.sm.config`
    sa.Column("token", text(36), nullable=False),  # in the SR's description or mark, in every pool
    sa.Column("place", text(64), nullable=False),  # a digest: equal for the same storage
    sa.Column("origin", text(16), nullable=False),  # created, introduced or found
    sa.Column("host_uuid", text(36)),  # of a local SR
    sa.Column("state", text(16), nullable=False),  # new, ready
    sa.Column("features", text(1023), nullable=False),  # of the storage driver, between spaces
    sa.Column("physical_size", sa.BigInteger, nullable=False),
    sa.Column("physical_utilisation", sa.BigInteger, nullable=False),
    sa.Column("virtual_allocation", sa.BigInteger, nullable=False),
    sa.Column("free", sa.BigInteger, nullable=False),  # what placement may still give
    sa.Column("weight", sa.Float, nullable=False),  # for the policy `weighted`
    sa.Column("placed_at", sa.BigInteger, nullable=False),  # ns; for the policy `round_robin`
    sa.Column("stats_at", moment()),
    sa.Column("problem", text(1023)),  # why no volume can be placed there; NULL: none is known
    *_common(),
    sa.UniqueConstraint("place", "deleted"),
    sa.UniqueConstraint("sr_uuid", "deleted"),
    sa.Index(None, "flavor_id", "deleted", "free"),
    sa.Index(None, "flavor_id", "deleted", "placed_at"),
)

volumes = sa.Table(
    "sm_volume",
    metadata,
    sa.Column("id", text(ID), primary_key=True),
    sa.Column("backend_id", sa.Integer, sa.ForeignKey("sm_backend_config.id"), nullable=False),
    sa.Column("vdi_uuid", text(255)),  # NULL until the VDI is made; then the same for ever
    sa.Column("token", text(36), nullable=False),  # in the VDI's mark until this row names it
    sa.Column("state", text(16), nullable=False),  # creating, available, deleting
    sa.Column("name", text(255), nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),  # as asked for
    sa.Column("virtual_size", sa.BigInteger),  # as made
    sa.Column("cost", sa.BigInteger, nullable=False),  # what it takes of its backend's `free`
    sa.Column("source_id", text(ID)),  # the volume or snapshot that it was copied from
    sa.Column("snapshot_of", text(ID)),  # of a snapshot: its volume
    sa.Column("image", text(255)),  # what it was filled with before it was available
    *_common(),
    sa.UniqueConstraint("vdi_uuid", "deleted"),
    sa.Index(None, "backend_id", "deleted", "state"),
    sa.Index(None, "backend_id", "deleted", "id"),
    sa.Index(None, "snapshot_of", "deleted", "id"),
    sa.Index(None, "source_id", "deleted"),
    sa.Index(None, "deleted", "id"),
)
