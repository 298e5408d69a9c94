"""An upload's ingest epoch is its store's affair: the signed log names it, and the column was never filled."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Drop the column."""
    op.drop_column("uploads", "epoch")
