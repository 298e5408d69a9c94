"""The API's tokens: the port's operations on them, each over one transaction. No counter depends on them."""

from datetime import datetime

from dropoff_tus.model import ApiToken
from storage.catalog import statements
from storage.catalog.rows import read_token, to_micros, token_values
from storage.catalog.transaction import Transaction


def add(transaction: Transaction, token: ApiToken) -> None:
    """Insert an API token."""
    transaction.post(statements.INSERT_TOKEN, **token_values(token))


def one(transaction: Transaction, token_id: str) -> ApiToken | None:
    """Return one API token, or None."""
    rows = transaction.rows(statements.TOKEN, token_id=token_id)
    return read_token(rows[0]) if rows else None


def every(transaction: Transaction) -> list[ApiToken]:
    """Return all API tokens, oldest first."""
    return [read_token(row) for row in transaction.rows(statements.ALL_TOKENS)]


def revoke(transaction: Transaction, token_id: str, at: datetime) -> bool:
    """Revoke an API token; again changes nothing."""
    return transaction.run(statements.REVOKE_TOKEN, token_id=token_id, at=to_micros(at)) > 0
