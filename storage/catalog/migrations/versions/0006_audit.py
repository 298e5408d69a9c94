"""The audit; and of a drop-off, how long finished uploads stay and whom to ask."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and the columns."""
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False, autoincrement=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
    )
    op.add_column("dropoffs", sa.Column("retain_seconds", sa.BigInteger, server_default="0", nullable=False))
    op.add_column("dropoffs", sa.Column("contact", sa.Text, server_default="", nullable=False))
