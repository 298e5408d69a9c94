"""The API's tokens. No counter depends on them."""

from datetime import datetime

from sqlalchemy import BigInteger, bindparam, insert, select, update

from dropoff_tus.audit import Act, Event, Note
from dropoff_tus.model import ApiToken, Scope
from storage.catalog.audit import Recording
from storage.catalog.rows import (
    Row,
    from_micros,
    micros_or_none,
    moment_or_none,
    read_texts,
    reads,
    to_micros,
    write_texts,
)
from storage.catalog.schema import api_tokens
from storage.catalog.transaction import Transaction

_token_id = bindparam("token_id", type_=api_tokens.c.id.type)

_INSERT = insert(api_tokens)

_TOKEN = select(api_tokens).where(api_tokens.c.id == _token_id)

_ALL = select(api_tokens).order_by(api_tokens.c.created_at, api_tokens.c.id)

_REVOKE = (
    update(api_tokens)
    .where(api_tokens.c.id == _token_id, api_tokens.c.revoked_at.is_(None))
    .values(revoked_at=bindparam("at", type_=BigInteger))
)
"""The first one says when."""


class SqlTokens(Recording):
    """Implements `ports.catalog.TokenRows`."""

    async def add_token(self, token: ApiToken) -> None:
        """Insert an API token."""
        values = {
            "id": token.id,
            "name": token.name,
            "scopes": write_texts(tuple(scope.value for scope in token.scopes)),
            "created_at": to_micros(token.created_at),
            "expires_at": micros_or_none(token.expires_at),
            "revoked_at": micros_or_none(token.revoked_at),
            "mac": token.mac,
            "drop_id": token.drop_id,
        }

        def add(transaction: Transaction, note: Note) -> None:
            transaction.run(_INSERT, **values)
            note(Event(Act.TOKEN_CREATE, token.drop_id, result=" ".join(token.scopes), token_id=token.id))

        await self._write(add)

    async def token(self, token_id: str) -> ApiToken | None:
        """Return one API token, or None."""
        rows = await self._engine.read(lambda each: each.rows(_TOKEN, token_id=token_id))
        return read_token(rows[0]) if rows else None

    async def tokens(self) -> list[ApiToken]:
        """Return all API tokens, oldest first."""
        return [read_token(row) for row in await self._engine.read_many(lambda each: each.rows(_ALL))]

    async def revoke_token(self, token_id: str, at: datetime) -> bool:
        """Revoke an API token; again changes nothing."""

        def revoke(transaction: Transaction, note: Note) -> bool:
            if not transaction.run(_REVOKE, token_id=token_id, at=to_micros(at)):
                return bool(transaction.rows(_TOKEN, token_id=token_id))
            note(Event(Act.TOKEN_REVOKE, token_id=token_id))
            return True

        return await self._write(revoke)


@reads
def read_token(row: Row) -> ApiToken:
    """Read an API token."""
    return ApiToken(
        id=row["id"],
        name=row["name"],
        scopes=tuple(Scope(scope) for scope in read_texts(row["scopes"])),
        created_at=from_micros(row["created_at"]),
        mac=row["mac"],
        drop_id=row["drop_id"],
        expires_at=moment_or_none(row["expires_at"]),
        revoked_at=moment_or_none(row["revoked_at"]),
    )
