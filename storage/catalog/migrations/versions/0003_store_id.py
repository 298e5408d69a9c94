"""The id of the store that the catalog speaks of, so that no other folder is taken for it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; the next start fills it."""
    op.add_column("catalog_state", sa.Column("store_id", sa.Text))
