"""The tables. They never hold file names and other client metadata, plaintext digests, tokens, codes.

Only types that every driver takes and gives as they are: text, 64-bit integers, bytes. Times are microseconds since
1970 in UTC, flags are 0 or 1, lists and a drop-off's terms are JSON. So a statement needs no conversion per value, on
either database.

Accounting. Each upload says what it takes of its drop-off: `reserved_bytes` while it is unfinished, `used_bytes`
once it is complete. The counters on the drop-off's row are their sums, the number of uploads that are no partials, and
that of attempts (see `Usage`); so ten thousand finished uploads do not slow the next. A partial's bytes move to the
final that claims it; they are on disk already, so they are used, never reserved.
"""

from collections.abc import Iterable
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    column,
    text,
)

from dropoff_tus.model import Mode, Role, Task
from dropoff_tus.outbox import EventKind, SinkName
from dropoff_tus.states import ENDED, UNFINISHED, UploadState

REVISION = "0001"
"""The newest migration, which makes these tables."""


def among(name: str, values: Iterable[StrEnum]) -> str:
    """Write the SQL condition that a column has one of these values."""
    listed = ", ".join(f"'{value.value}'" for value in values)
    return f"{name} IN ({listed})"


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

dropoffs = Table(
    "dropoffs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("closed", SmallInteger, nullable=False),
    Column("ended", SmallInteger, nullable=False),
    Column("terms", Text, nullable=False),
    Column("code_mac", LargeBinary),
    Column("signature", LargeBinary, nullable=False),
    Column("used_uploads", BigInteger, nullable=False),
    Column("used_bytes", BigInteger, nullable=False),
    Column("reserved_bytes", BigInteger, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    CheckConstraint("closed IN (0, 1) AND ended IN (0, 1)", name="flags"),
    CheckConstraint("used_uploads >= 0 AND used_bytes >= 0 AND reserved_bytes >= 0", name="counters"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("drop_id", Text, ForeignKey(dropoffs.c.id), nullable=False),
    Column("role", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("state_at", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("completed_at", BigInteger),
    Column("length", BigInteger),
    Column("size_bytes", BigInteger),
    Column("reserved_bytes", BigInteger, nullable=False),
    Column("used_bytes", BigInteger, nullable=False),
    Column("final_id", Text, ForeignKey("uploads.id")),
    CheckConstraint(among("role", Role), name="role"),
    CheckConstraint(among("mode", Mode), name="mode"),
    CheckConstraint(among("state", UploadState), name="state"),
    CheckConstraint("reserved_bytes >= 0 AND used_bytes >= 0", name="bytes"),
    CheckConstraint(f"reserved_bytes = 0 OR {among('state', UNFINISHED)}", name="reserved"),
    CheckConstraint(f"used_bytes = 0 OR NOT {among('state', ENDED)}", name="used"),
    CheckConstraint("final_id IS NULL OR role = 'partial'", name="final"),
)

# The order of pages.
Index("ix_dropoffs_created_at", dropoffs.c.created_at, dropoffs.c.id)
Index("ix_uploads_created_at", uploads.c.created_at, uploads.c.id)

Index("ix_uploads_drop_id", uploads.c.drop_id, uploads.c.created_at)
Index("ix_uploads_state", uploads.c.state, uploads.c.created_at)
Index(
    "ix_uploads_final_id",
    uploads.c.final_id,
    sqlite_where=column("final_id").is_not(None),
    postgresql_where=column("final_id").is_not(None),
)

_UNCLAIMED = "role = 'partial' AND final_id IS NULL"
Index(
    "ix_uploads_unclaimed",
    uploads.c.state,
    uploads.c.created_at,
    sqlite_where=text(_UNCLAIMED),
    postgresql_where=text(_UNCLAIMED),
)

api_tokens = Table(
    "api_tokens",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    Column("mac", LargeBinary, nullable=False),
    Column("drop_id", Text),
)

# Events that wait for delivery: ids and fixed words. A delivered one is gone.
outbox = Table(
    "outbox",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("sink", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("drop_id", Text, nullable=False),
    Column("upload_id", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("dead", SmallInteger, nullable=False),
    Column("problem", Text),
    CheckConstraint(among("sink", SinkName), name="sink"),
    CheckConstraint(among("kind", EventKind), name="kind"),
    CheckConstraint("dead IN (0, 1)", name="dead"),
)

Index(
    "ix_outbox_due", outbox.c.sink, outbox.c.next_at, sqlite_where=text("dead = 0"), postgresql_where=text("dead = 0")
)
Index("ix_outbox_upload_id", outbox.c.upload_id)

# Rows of the audit, as `dropoff_tus.audit` writes them, and the signed checkpoints: only ever inserted. The database
# gives the rows their numbers, none of them twice; some are missing where a transaction was undone.
audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), Identity(always=True), primary_key=True),
    Column("record", Text, nullable=False),
    sqlite_autoincrement=True,
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("number", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=False),
    Column("line", Text, nullable=False),
)

# One row: the version that every change of a drop-off raises, the id of the store (see `storage.files.marker`), and
# when a server last ran.
catalog_state = Table(
    "catalog_state",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    Column("store_id", Text),
    Column("noted_at", BigInteger),
    CheckConstraint("id = 1", name="one_row"),
)

# A row for each task, made with the table: its last end, and the last good one.
runs = Table(
    "runs",
    metadata,
    Column("task", Text, primary_key=True),
    Column("ended_at", BigInteger),
    Column("good_at", BigInteger),
    Column("problems", BigInteger, nullable=False),
    CheckConstraint(among("task", Task), name="task"),
)
