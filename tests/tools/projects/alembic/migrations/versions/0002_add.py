"""A note, who referred the customer, and no negative totals."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("orders", sa.Column("note", sa.Text))
    op.add_column("orders", sa.Column("referrer_id", sa.BigInteger))
    op.create_foreign_key("orders_referrer", "orders", "customer", ["referrer_id"], ["id"])
    op.create_check_constraint("orders_total", "orders", "total >= 0")
