"""Which rights in PostgreSQL the server's role lacks, and which it should not have."""

from collections.abc import Sequence

from sqlalchemy import func, literal_column, select

from storage.catalog.schema import api_tokens, audit, catalog_state, checkpoints, dropoffs, outbox, runs, uploads
from storage.catalog.transaction import Engine

_ALL = ("SELECT", "INSERT", "UPDATE", "DELETE")
_NEEDED = {
    **dict.fromkeys((uploads, outbox), _ALL),
    **dict.fromkeys((dropoffs, api_tokens), _ALL[:3]),
    **dict.fromkeys((audit, checkpoints), _ALL[:2]),
    **dict.fromkeys((catalog_state, runs), ("SELECT", "UPDATE")),
}


async def lacking_rights(engine: Engine) -> list[str]:
    """Return what has to be granted to the role, as `INSERT ON uploads`."""
    rights = [(right, table.name) for table, needed in _NEEDED.items() for right in needed]
    return [named for named, granted in await _asked(engine, rights) if not granted]


async def needless_rights(engine: Engine) -> list[str]:
    """Return what the role has to take back: to change what is only ever added to."""
    rights = [(right, table.name) for table in (audit, checkpoints) for right in ("UPDATE", "DELETE")]
    return [named for named, granted in await _asked(engine, rights) if granted]


async def _asked(engine: Engine, rights: Sequence[tuple[str, str]]) -> list[tuple[str, bool]]:
    columns = [
        func.has_table_privilege(literal_column(f"'{table}'"), literal_column(f"'{right}'")).label(f"right_{number}")
        for number, (right, table) in enumerate(rights)
    ]
    statement = select(*columns)
    (row,) = await engine.read(lambda transaction: transaction.rows(statement))
    return [(f"{right} ON {table}", bool(granted)) for (right, table), granted in zip(rights, row, strict=True)]
