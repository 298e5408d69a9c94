"""The audit anew: rows that the database numbers, and signed checkpoints of them in a table of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables; what was in the earlier one was a chain, which these rows are not."""
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.drop_table("audit")
    op.create_table(
        "audit",
        sa.Column("seq", number, sa.Identity(always=True), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "checkpoints",
        sa.Column("number", number, nullable=False, autoincrement=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_checkpoints")),
    )
