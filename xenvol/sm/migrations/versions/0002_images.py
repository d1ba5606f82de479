"""Add the image that a volume was made from.

As in the first migration, what exists already is skipped.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    there = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("sm_volume")}
    if "image" not in there:
        op.add_column("sm_volume", sa.Column("image", _text(255)))


def downgrade() -> None:
    op.drop_column("sm_volume", "image")


def _text(length: int) -> sa.String:
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mysql", "mariadb"
    )
