"""Lists that are read page by page, and tokens that are for one drop-off."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the indexes and the column."""
    op.create_index("ix_dropoffs_created_at", "dropoffs", ["created_at", "id"])
    op.create_index("ix_uploads_created_at", "uploads", ["created_at", "id"])
    op.add_column("api_tokens", sa.Column("drop_id", sa.Text))
