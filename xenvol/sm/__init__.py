"""The Storage Manager's public face; it needs the extra ``sm``: SQLAlchemy and alembic."""

from xenvol.sm.database import Database, default_url
from xenvol.sm.manager import StorageManager

__all__ = ["Database", "StorageManager", "default_url"]
