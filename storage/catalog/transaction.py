"""The database as operations see it, and how one waits for its turn."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import UpdateBase

from storage.catalog.rows import Row
from storage.catalog.statements import Statement


class Transaction(Protocol):
    """One transaction of either database, which no other writer is in the middle of. Values are bound by name."""

    def rows(self, statement: Statement, **values: object) -> Sequence[Row]:
        """Run a statement and return its rows."""
        ...

    def run(self, statement: Statement, **values: object) -> int:
        """Run a statement and return how many rows it changed."""
        ...

    def post(self, statement: UpdateBase, **values: object) -> None:
        """Run a change whose count nobody needs: before anything else is asked, or the operation ends."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """An operation that waits for its turn, and what came of it. `deadline` is on the event loop's clock."""

    work: Callable[[Transaction], Any]
    future: asyncio.Future[Any]
    deadline: float = math.inf
    result: object = None
    error: BaseException | None = None

    def answer(self) -> None:
        """Give the caller the result, on the event loop; a caller that went away needs none."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        elif isinstance(self.error, StopIteration):  # which a future does not take
            self.future.set_exception(RuntimeError("an operation raised StopIteration"))
        else:
            self.future.set_exception(self.error)
