"""The last time at which a server ran, by which a clock that jumped ahead is known."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; the next server that runs fills it."""
    op.add_column("catalog_state", sa.Column("noted_at", sa.BigInteger))
