"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    _dropoffs()
    _uploads()
    _tokens()
    _outbox()
    _audit()
    _state()
    _runs()


def _dropoffs() -> None:
    op.create_table(
        "dropoffs",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("closed", sa.SmallInteger, nullable=False),
        sa.Column("ended", sa.SmallInteger, nullable=False),
        sa.Column("terms", sa.Text, nullable=False),
        sa.Column("code_mac", sa.LargeBinary),
        sa.Column("signature", sa.LargeBinary, nullable=False),
        sa.Column("used_uploads", sa.BigInteger, nullable=False),
        sa.Column("used_bytes", sa.BigInteger, nullable=False),
        sa.Column("reserved_bytes", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dropoffs")),
        sa.CheckConstraint("closed IN (0, 1) AND ended IN (0, 1)", name=op.f("ck_dropoffs_flags")),
        sa.CheckConstraint(
            "used_uploads >= 0 AND used_bytes >= 0 AND reserved_bytes >= 0", name=op.f("ck_dropoffs_counters")
        ),
    )
    op.create_index("ix_dropoffs_created_at", "dropoffs", ["created_at", "id"])


def _uploads() -> None:
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("drop_id", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("state_at", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("completed_at", sa.BigInteger),
        sa.Column("length", sa.BigInteger),
        sa.Column("size_bytes", sa.BigInteger),
        sa.Column("reserved_bytes", sa.BigInteger, nullable=False),
        sa.Column("used_bytes", sa.BigInteger, nullable=False),
        sa.Column("final_id", sa.Text),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_uploads")),
        sa.CheckConstraint("role IN ('regular', 'partial', 'final')", name=op.f("ck_uploads_role")),
        sa.CheckConstraint("mode IN ('managed', 'sealed')", name=op.f("ck_uploads_mode")),
        sa.CheckConstraint(
            "state IN ('open', 'finishing', 'checking', 'complete', 'rejected', 'terminated', 'expired', 'deleted')",
            name=op.f("ck_uploads_state"),
        ),
        sa.CheckConstraint("reserved_bytes >= 0 AND used_bytes >= 0", name=op.f("ck_uploads_bytes")),
        sa.CheckConstraint(
            "reserved_bytes = 0 OR state IN ('open', 'finishing', 'checking')", name=op.f("ck_uploads_reserved")
        ),
        sa.CheckConstraint(
            "used_bytes = 0 OR NOT state IN ('rejected', 'terminated', 'expired', 'deleted')",
            name=op.f("ck_uploads_used"),
        ),
        sa.CheckConstraint("final_id IS NULL OR role = 'partial'", name=op.f("ck_uploads_final")),
        sa.ForeignKeyConstraint(["drop_id"], ["dropoffs.id"], name=op.f("fk_uploads_drop_id")),
        sa.ForeignKeyConstraint(["final_id"], ["uploads.id"], name=op.f("fk_uploads_final_id")),
    )
    op.create_index("ix_uploads_created_at", "uploads", ["created_at", "id"])
    op.create_index("ix_uploads_drop_id", "uploads", ["drop_id", "created_at"])
    op.create_index(
        "ix_uploads_final_id",
        "uploads",
        ["final_id"],
        sqlite_where=sa.text("final_id IS NOT NULL"),
        postgresql_where=sa.text("final_id IS NOT NULL"),
    )
    op.create_index("ix_uploads_state", "uploads", ["state", "created_at"])
    op.create_index(
        "ix_uploads_unclaimed",
        "uploads",
        ["state", "created_at"],
        sqlite_where=sa.text("role = 'partial' AND final_id IS NULL"),
        postgresql_where=sa.text("role = 'partial' AND final_id IS NULL"),
    )


def _tokens() -> None:
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("scopes", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("mac", sa.LargeBinary, nullable=False),
        sa.Column("drop_id", sa.Text),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
    )


def _outbox() -> None:
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
            "kind IN ('upload.created', 'upload.complete', 'upload.rejected', 'upload.terminated', "
            "'upload.expired', 'upload.deleted')",
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


def _audit() -> None:
    op.create_table(
        "audit",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=True), nullable=False
        ),
        sa.Column("record", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "checkpoints",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_checkpoints")),
    )


def _state() -> None:
    state = op.create_table(
        "catalog_state",
        sa.Column("id", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("store_id", sa.Text),
        sa.Column("noted_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_catalog_state")),
        sa.CheckConstraint("id = 1", name=op.f("ck_catalog_state_one_row")),
    )
    op.bulk_insert(state, [{"id": 1, "version": 0}])


def _runs() -> None:
    runs = op.create_table(
        "runs",
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("good_at", sa.BigInteger),
        sa.Column("problems", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("task", name=op.f("pk_runs")),
        sa.CheckConstraint("task IN ('check', 'quick-check', 'backup')", name=op.f("ck_runs_task")),
    )
    op.bulk_insert(runs, [{"task": task, "problems": 0} for task in ("check", "quick-check", "backup")])
