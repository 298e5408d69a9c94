"""How operations speak to PostgreSQL: in a greenlet, which waits where a statement is sent, so no thread is needed.

Each round trip costs as much as ten statements of SQLite. So changes that nobody asks anything of are kept until
something is asked or the operation ends, and go together, as one statement.
"""

import functools
import itertools
import re
from collections.abc import Sequence

import asyncpg
from sqlalchemy import UpdateBase
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.util import await_

from storage.catalog.rows import Row
from storage.catalog.statements import Statement

_DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
_PLACE = re.compile(r"\$(\d+)")


@functools.lru_cache(maxsize=512)
def compiled(statement: Statement) -> tuple[str, tuple[str, ...]]:
    """Return a statement's SQL with `$1` and so on, and the names of its values in their order."""
    done = statement.compile(dialect=_DIALECT)
    return str(done), tuple(done.positiontup or ())


def _moved(by: int, place: re.Match[str]) -> str:
    return f"${int(place[1]) + by}"


@functools.lru_cache(maxsize=512)
def merged(changes: tuple[UpdateBase, ...]) -> str:
    """Return changes of different tables as one statement; its values are theirs, one after the other.

    None sees what another does, and references between tables are checked behind the last.

    Source: PostgreSQL's manual, WITH Queries, Data-Modifying Statements in WITH.
    """
    texts: list[str] = []
    before = 0
    for change in changes:
        text, names = compiled(change)
        texts.append(_PLACE.sub(functools.partial(_moved, before), text))
        before += len(names)
    named = ", ".join(f"change_{number} AS ({text})" for number, text in enumerate(texts[:-1]))
    return f"WITH {named} {texts[-1]}" if named else texts[-1]


class PostgresTransaction:
    """Implements `transaction.Transaction`, inside a greenlet."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._posted: dict[UpdateBase, list[list[object]]] = {}
        self.changed = False
        """Whether the present operation has sent a change, so that only the database can undo it."""

    def begin(self) -> None:
        """Forget the operation before: changes that it has not sent must not happen."""
        self.changed = False
        self._posted = {}

    def rows(self, statement: Statement, **values: object) -> Sequence[Row]:
        """Run a statement and return its rows."""
        self.flush()
        text, names = compiled(statement)
        found: Sequence[Row] = await_(self._connection.fetch(text, *[values[name] for name in names]))
        return found

    def run(self, statement: Statement, **values: object) -> int:
        """Run a statement and return how many rows it changed."""
        self.flush()
        self.changed = True
        text, names = compiled(statement)
        status: str = await_(self._connection.execute(text, *[values[name] for name in names]))
        return int(status.rpartition(" ")[2])

    def post(self, statement: UpdateBase, **values: object) -> None:
        """Keep a change for later. Another change of a table that one waits for sends that one first."""
        if statement not in self._posted and any(statement.table is other.table for other in self._posted):
            self.flush()
        self._posted.setdefault(statement, []).append([values[name] for name in compiled(statement)[1]])

    def flush(self) -> None:
        """Send what is kept."""
        if not self._posted:
            return
        posted, self._posted, self.changed = self._posted, {}, True
        once = {statement: many[0] for statement, many in posted.items() if len(many) == 1}
        for statement, many in posted.items():
            if statement not in once:
                await_(self._connection.executemany(compiled(statement)[0], many))
        if once:
            await_(self._connection.fetch(merged(tuple(once)), *itertools.chain.from_iterable(once.values())))
