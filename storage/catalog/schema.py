"""The catalog's tables. Never in them: file names, client metadata, plaintext digests, tokens, codes.

What a drop-off's uploads take is kept in counters on its row, so that ten thousand finished uploads do not slow the
next
one. Times are microseconds since 1970 in UTC.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

from dropoff_tus.model import Mode, Role, UploadState

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: type[UploadState] | type[Role] | type[Mode]) -> str:
    return f"{column} IN ({', '.join(repr(value.value) for value in values)})"


dropoffs = Table(
    "dropoffs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("opens_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("closed", Boolean, nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("mode", Text, nullable=False),
    Column("recipients", Text, nullable=False),
    Column("policy_signature", LargeBinary, nullable=False),
    Column("code_mac", LargeBinary),
    Column("limits", Text, nullable=False),
    Column("used_uploads", BigInteger, nullable=False),
    Column("used_bytes", BigInteger, nullable=False),
    Column("reserved_bytes", BigInteger, nullable=False),
    CheckConstraint(_one_of("mode", Mode), name="mode"),
    CheckConstraint("used_uploads >= 0 AND used_bytes >= 0 AND reserved_bytes >= 0", name="usage"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("id", Text, primary_key=True),
    Column("drop_id", Text, ForeignKey("dropoffs.id"), nullable=False),
    Column("role", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("length", BigInteger),
    Column("reserved_bytes", BigInteger, nullable=False),
    Column("size_bytes", BigInteger),
    Column("completed_at", BigInteger),
    Column("final_id", Text),
    Column("epoch", Text),
    CheckConstraint(_one_of("role", Role), name="role"),
    CheckConstraint(_one_of("state", UploadState), name="state"),
    Index("ix_uploads_drop_id", "drop_id", "created_at"),
    Index("ix_uploads_state", "state", "created_at"),
    Index("ix_uploads_final_id", "final_id"),
)

counters = Table(
    "counters",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
