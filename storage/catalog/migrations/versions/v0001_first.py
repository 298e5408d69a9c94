"""The first tables: drop-offs, uploads, counters."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "dropoffs",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("opens_at", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("closed", sa.Boolean, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("recipients", sa.Text, nullable=False),
        sa.Column("policy_signature", sa.LargeBinary, nullable=False),
        sa.Column("code_mac", sa.LargeBinary),
        sa.Column("limits", sa.Text, nullable=False),
        sa.Column("used_uploads", sa.BigInteger, nullable=False),
        sa.Column("used_bytes", sa.BigInteger, nullable=False),
        sa.Column("reserved_bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dropoffs"),
        sa.CheckConstraint("mode IN ('managed', 'sealed')", name="ck_dropoffs_mode"),
        sa.CheckConstraint("used_uploads >= 0 AND used_bytes >= 0 AND reserved_bytes >= 0", name="ck_dropoffs_usage"),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("drop_id", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("length", sa.BigInteger),
        sa.Column("reserved_bytes", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("final_id", sa.Text),
        sa.Column("epoch", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
        sa.ForeignKeyConstraint(["drop_id"], ["dropoffs.id"], name="fk_uploads_drop_id"),
        sa.CheckConstraint("role IN ('regular', 'partial', 'final')", name="ck_uploads_role"),
        sa.CheckConstraint(
            "state IN ('open', 'finishing', 'checking', 'complete', 'rejected', 'terminated', 'expired', 'deleted')",
            name="ck_uploads_state",
        ),
    )
    op.create_index("ix_uploads_drop_id", "uploads", ["drop_id", "created_at"])
    op.create_index("ix_uploads_state", "uploads", ["state", "created_at"])
    op.create_index("ix_uploads_final_id", "uploads", ["final_id"])
    counters = op.create_table(
        "counters",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("value", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_counters"),
    )
    op.bulk_insert(counters, [{"name": "dropoffs", "value": 1}])
