"""Count attempts of drop-offs; nothing sums their reservations any more."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, count what is there, and drop the index of the sum."""
    op.drop_index("ix_dropoffs_reserved_bytes", table_name="dropoffs")
    op.add_column("dropoffs", sa.Column("attempts", sa.BigInteger, nullable=False, server_default="0"))
    op.execute(
        "UPDATE dropoffs SET attempts = (SELECT count(*) FROM uploads WHERE drop_id = dropoffs.id AND (state IN"
        " ('terminated', 'rejected') OR (role = 'partial' AND state NOT IN ('expired', 'deleted'))))"
    )
