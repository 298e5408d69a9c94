"""The audit's rows: written as the last thing of the operation that they speak of, and read in their order.

Whoever writes is alone, on either database, so the end of the chain is asked for once in a transaction, however many
operations are in it. The rows are only ever inserted.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from dropoff_tus.audit import Act, Actor, Chain, Event, row_hash
from storage.catalog import statements
from storage.catalog.transaction import Transaction

Sign = Callable[[int, str, datetime], str]
"""Signs a checkpoint: how many rows, the last one's hash, when."""


def append(transaction: Transaction, events: Sequence[Event], by: Actor) -> None:
    """Add rows to the end of the chain."""
    if not events:
        return
    if transaction.audit is None:
        transaction.audit = end(transaction)
    chain, at = transaction.audit, datetime.now(UTC)
    for event in events:
        text = chain.write(event, by, at)
        transaction.post(statements.INSERT_AUDIT, seq=chain.count, record=text)


def append_checkpoint(transaction: Transaction, sign: Sign, by: Actor) -> bool:
    """Sign what there is, as a row of its own; False if nothing was added since the last time."""
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
    rows = transaction.rows(statements.LAST_AUDIT)
    return Chain.at(rows[0]["seq"], rows[0]["record"]) if rows else Chain()
