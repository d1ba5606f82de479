"""Run by alembic: apply the migrations on the connection that `xenvol.sm.database` hands over."""

from alembic import context

from xenvol.sm.tables import metadata

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=metadata,
    version_table="sm_alembic_version",  # other services may use the same database
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
