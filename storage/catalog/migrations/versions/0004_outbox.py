"""Events that wait for delivery, and whom a drop-off notifies."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the table."""
    op.add_column("dropoffs", sa.Column("notify", sa.Text, server_default="[]", nullable=False))
    op.create_table(
        "outbox",
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("sink", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("drop_id", sa.Text, nullable=False),
        sa.Column("upload_id", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("next_at", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("dead", sa.SmallInteger, nullable=False),
        sa.Column("problem", sa.Text),
        sa.PrimaryKeyConstraint("event_id", "sink", name=op.f("pk_outbox")),
        sa.CheckConstraint("sink IN ('webhook', 'mail')", name=op.f("ck_outbox_sink")),
        sa.CheckConstraint(
            "kind IN ('upload.created', 'upload.complete', 'upload.rejected', 'upload.terminated', 'upload.expired', "
            "'upload.deleted')",
            name=op.f("ck_outbox_kind"),
        ),
        sa.CheckConstraint("dead IN (0, 1)", name=op.f("ck_outbox_dead")),
    )
    op.create_index(
        "ix_outbox_due",
        "outbox",
        ["sink", "next_at"],
        sqlite_where=sa.text("dead = 0"),
        postgresql_where=sa.text("dead = 0"),
    )
    op.create_index("ix_outbox_upload_id", "outbox", ["upload_id"])
