"""What nobody uses any more."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.drop_column("orders", "legacy")
    op.drop_table("obsolete")
