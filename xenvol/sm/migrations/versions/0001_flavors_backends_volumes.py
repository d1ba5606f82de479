"""Make the tables of flavors, backends and volumes.

What exists already is skipped: MariaDB commits each statement by itself, so a killed upgrade leaves some of it, and the
next one continues.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mysql", "mariadb"
    )


def _moment() -> sa.DateTime:
    return sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def _common() -> list[sa.Column[object]]:
    return [
        sa.Column("created_at", _moment(), nullable=False),
        sa.Column("updated_at", _moment()),
        sa.Column("deleted_at", _moment()),
        sa.Column("deleted", sa.BigInteger, nullable=False),
    ]


def upgrade() -> None:
    _create_table(
        "sm_flavors",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("label", _text(255), nullable=False),
        sa.Column("description", _text(255), nullable=False),
        sa.Column("policy", _text(64), nullable=False),
        sa.Column("over_subscription", sa.Float, nullable=False),
        sa.Column("reserved_percentage", sa.Integer, nullable=False),
        *_common(),
        sa.PrimaryKeyConstraint("id", name="pk_sm_flavors"),
        sa.UniqueConstraint("label", "deleted", name="uq_sm_flavors_label"),
    )
    _create_table(
        "sm_backend_config",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("flavor_id", sa.Integer, nullable=False),
        sa.Column("sr_uuid", _text(255)),
        sa.Column("sr_type", _text(255), nullable=False),
        sa.Column("config_params", _text(2047), nullable=False),
        sa.Column("token", _text(36), nullable=False),
        sa.Column("place", _text(64), nullable=False),
        sa.Column("origin", _text(16), nullable=False),
        sa.Column("host_uuid", _text(36)),
        sa.Column("state", _text(16), nullable=False),
        sa.Column("features", _text(1023), nullable=False),
        sa.Column("physical_size", sa.BigInteger, nullable=False),
        sa.Column("physical_utilisation", sa.BigInteger, nullable=False),
        sa.Column("virtual_allocation", sa.BigInteger, nullable=False),
        sa.Column("free", sa.BigInteger, nullable=False),
        sa.Column("weight", sa.Float, nullable=False),
        sa.Column("placed_at", sa.BigInteger, nullable=False),
        sa.Column("stats_at", _moment()),
        sa.Column("problem", _text(1023)),
        *_common(),
        sa.PrimaryKeyConstraint("id", name="pk_sm_backend_config"),
        sa.ForeignKeyConstraint(["flavor_id"], ["sm_flavors.id"], name="fk_sm_backend_config_flavor_id"),
        sa.UniqueConstraint("place", "deleted", name="uq_sm_backend_config_place"),
        sa.UniqueConstraint("sr_uuid", "deleted", name="uq_sm_backend_config_sr_uuid"),
    )
    _create_indexes(
        "sm_backend_config", ["flavor_id", "deleted", "free"], ["flavor_id", "deleted", "placed_at"]
    )
    _create_table(
        "sm_volume",
        sa.Column("id", _text(255), nullable=False),
        sa.Column("backend_id", sa.Integer, nullable=False),
        sa.Column("vdi_uuid", _text(255)),
        sa.Column("token", _text(36), nullable=False),
        sa.Column("state", _text(16), nullable=False),
        sa.Column("name", _text(255), nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("virtual_size", sa.BigInteger),
        sa.Column("cost", sa.BigInteger, nullable=False),
        sa.Column("source_id", _text(255)),
        sa.Column("snapshot_of", _text(255)),
        *_common(),
        sa.PrimaryKeyConstraint("id", name="pk_sm_volume"),
        sa.ForeignKeyConstraint(["backend_id"], ["sm_backend_config.id"], name="fk_sm_volume_backend_id"),
        sa.UniqueConstraint("vdi_uuid", "deleted", name="uq_sm_volume_vdi_uuid"),
    )
    _create_indexes(
        "sm_volume",
        ["backend_id", "deleted", "state"],
        ["backend_id", "deleted", "id"],
        ["snapshot_of", "deleted", "id"],
        ["source_id", "deleted"],
        ["deleted", "id"],
    )


def downgrade() -> None:
    for table in ("sm_volume", "sm_backend_config", "sm_flavors"):
        op.drop_table(table)


def _create_table(name: str, *parts: Any) -> None:
    if not sa.inspect(op.get_bind()).has_table(name):
        op.create_table(name, *parts)


def _create_indexes(table: str, *all_columns: list[str]) -> None:
    there = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}
    for columns in all_columns:
        name = f"ix_{table}_{'_'.join(columns)}"
        if name not in there:
            op.create_index(name, table, columns)
