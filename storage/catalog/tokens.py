"""The API's tokens: the port's operations on them, each over one transaction. No counter depends on them."""

from datetime import datetime

from dropoff_tus.audit import Act, Event, Note
from dropoff_tus.model import ApiToken
from storage.catalog import statements
from storage.catalog.rows import read_token, to_micros, token_values
from storage.catalog.transaction import Transaction


def add(transaction: Transaction, token: ApiToken, note: Note) -> None:
    """Insert an API token."""
    transaction.run(statements.INSERT_TOKEN, **token_values(token))
    note(Event(Act.TOKEN_CREATE, token.drop_id, result=" ".join(token.scopes), token_id=token.id))


def one(transaction: Transaction, token_id: str) -> ApiToken | None:
    """Return one API token, or None."""
    rows = transaction.rows(statements.TOKEN, token_id=token_id)
    return read_token(rows[0]) if rows else None


def every(transaction: Transaction) -> list[ApiToken]:
    """Return all API tokens, oldest first."""
    return [read_token(row) for row in transaction.rows(statements.ALL_TOKENS)]


def revoke(transaction: Transaction, token_id: str, at: datetime, note: Note) -> bool:
    """Revoke an API token; again changes nothing."""
    if not transaction.run(statements.REVOKE_TOKEN, token_id=token_id, at=to_micros(at)):
        return one(transaction, token_id) is not None
    note(Event(Act.TOKEN_REVOKE, token_id=token_id))
    return True
