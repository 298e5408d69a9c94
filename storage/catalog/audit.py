"""The audit's rows: written as the last thing of the transaction that they speak of, and read in their order.

Last, because on a database with several writers the chain has one lock, held from here to COMMIT: whoever has it waits
for nothing any more, so none wait in a circle. The rows are only ever inserted.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from dropoff_tus.audit import Act, Actor, Chain, Event, row_hash
from storage.catalog import statements
from storage.catalog.rows import Row
from storage.catalog.transaction import Transaction

Sign = Callable[[int, str, datetime], str]
"""Signs a checkpoint: how many rows, the last one's hash, when."""


def append(transaction: Transaction, events: Sequence[Event], by: Actor) -> None:
    """Add rows to the end of the chain."""
    if not events:
        return
    chain = _locked_end(transaction)
    at = datetime.now(UTC)
    for event in events:
        text = chain.write(event, by, at)
        transaction.run(statements.INSERT_AUDIT, seq=chain.count, record=text)


def append_checkpoint(transaction: Transaction, sign: Sign, by: Actor) -> bool:
    """Sign what there is, as a row of its own; False if nothing was added since the last time."""
    if not transaction.alone:
        transaction.rows(statements.LOCK_AUDIT)
    rows = transaction.rows(statements.LAST_AUDIT)
    if not rows or f'"act":"{Act.CHECKPOINT.value}"' in rows[0]["record"]:
        return False
    signed = sign(rows[0]["seq"], row_hash(rows[0]["record"]), datetime.now(UTC))
    append(transaction, [Event(Act.CHECKPOINT, checkpoint=signed)], by)
    return True


def rows_after(transaction: Transaction, seq: int, most: int) -> list[tuple[int, str]]:
    """Return some of the rows after a number, in their order."""
    found = transaction.rows(statements.AUDIT_AFTER, after=seq, most=most)
    return [(row["seq"], row["record"]) for row in found]


def end(transaction: Transaction) -> Chain:
    """Return where the chain stands."""
    return _chain(transaction.rows(statements.LAST_AUDIT))


def _locked_end(transaction: Transaction) -> Chain:
    if not transaction.alone:
        # A statement of its own: only the one after it sees what the last holder committed.
        transaction.rows(statements.LOCK_AUDIT)
    rows = transaction.rows(statements.LAST_AUDIT)
    return _chain(rows)


def _chain(rows: Sequence[Row]) -> Chain:
    return Chain.at(rows[0]["seq"], rows[0]["record"]) if rows else Chain()
