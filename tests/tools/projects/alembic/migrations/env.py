"""As ``alembic init`` writes it; the address of the database comes from libpq's PG* variables."""

from logging.config import fileConfig

from alembic import context
from sqlalchemy import create_engine, pool

URL = "postgresql+psycopg://"

assert context.config.config_file_name is not None
fileConfig(context.config.config_file_name)

if context.is_offline_mode():
    context.configure(url=URL, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with create_engine(URL, poolclass=pool.NullPool).connect() as connection:
        context.configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
