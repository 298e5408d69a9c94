"""API tokens of operators: made, listed and revoked, and the check of what a request presents.

A token is 256 random bits and is shown once. The catalog has its id, which is derived from it and opens nothing, and a
MAC under a key that is not in the catalog, over the token, its scopes, its expiry and its drop-off. So whoever can
write to the database can neither make a token nor widen or prolong one. Each request asks the catalog, so what another
process revokes ends at once.

Source: docs/reference/api.md, Tokens; RFC 6750.
"""

import hmac
import json
import os
import time
from collections.abc import Callable, Container, Sequence
from datetime import datetime

from dropoff_tus.audit import Act, Event
from dropoff_tus.errors import InvalidFieldError, ScopeMissingError, TooManyWrongTokensError, UnauthorizedError
from dropoff_tus.ids import API_TOKEN_BYTES, api_token_id, format_api_token
from dropoff_tus.model import ApiToken, Scope
from dropoff_tus.ports.catalog import ApiTokenRows, Catalog
from dropoff_tus.ports.clock import Clock
from server.settings.units import check_label
from server.usecases.wrong_credentials import Throttle, WrongCredentials

_NO_MAC = bytes(32)
_SCHEME = "bearer "
_MOST_TOKEN_CHARACTERS = 256
ApiTokenMac = Callable[[bytes], bytes]


async def create_api_token(
    catalog: Catalog,
    mac: ApiTokenMac,
    clock: Clock,
    *,
    name: str,
    scopes: Sequence[str],
    expires_at: datetime | None = None,
    drop_id: str | None = None,
) -> tuple[ApiToken, str]:
    """Make a token, for one drop-off or for all; returns it with its secret, which is nowhere else.

    Raises:
        InvalidFieldError: The name, a scope, the time or the drop-off is none.
    """
    problem = check_label(name)
    if problem is not None:
        raise InvalidFieldError("name", problem)
    known = [scope.value for scope in Scope]
    for scope in scopes:
        if scope not in known:
            raise InvalidFieldError("scope", f"{scope!r} is not known; write one of {', '.join(known)}")
    if not scopes:
        raise InvalidFieldError("scope", f"is missing; write one or more of {', '.join(known)}")
    secret = format_api_token(os.urandom(API_TOKEN_BYTES))
    granted = tuple(Scope(scope) for scope in known if scope in scopes)
    if drop_id is not None and await catalog.dropoff(drop_id) is None:
        raise InvalidFieldError("drop", "is no drop-off; list them with `dropoff-tus drop list`")
    now = clock.now()
    if expires_at is not None and expires_at <= now:
        raise InvalidFieldError("expires_at", "lies in the past; write a time to come")
    terms = _terms(secret, granted, expires_at, drop_id)
    token = ApiToken(api_token_id(secret), name, granted, now, mac(terms), expires_at, drop_id=drop_id)
    await catalog.add_token(token)
    return token, secret


class ApiTokenGuard:
    """Checks tokens, and slows wrong ones per client address."""

    def __init__(
        self,
        catalog: ApiTokenRows,
        mac: ApiTokenMac,
        clock: Clock,
        wrong_per_hour: int,
        wrong: WrongCredentials,
        revoked: Container[str],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take the catalog, the keyed hash, the times, the limit of wrong ones (0: none), their counter, and ids.

        Those in `revoked` are good for nothing any more, even where the catalog says otherwise.
        """
        self._catalog, self._mac, self._clock, self._monotonic = catalog, mac, clock, monotonic
        self._wrong, self._revoked = wrong, revoked
        self._throttle = Throttle(wrong_per_hour)

    def limit(self, wrong_per_hour: int) -> None:
        """Let so many wrong tokens pass from now on."""
        self._throttle.limit(wrong_per_hour)

    async def check(self, authorization: str | None, client: str | None, scope: Scope | None) -> ApiToken:
        """Return the token that a request presents, if it is good for a scope. A right one is always let in.

        Args:
            authorization: The request's one Authorization header.
            client: The client's name for counting (see `forwarded.client_of`); None if unknown.
            scope: The scope that the request needs; None if any token will do.

        Raises:
            UnauthorizedError: There is none; or it is unknown, expired or revoked: the same error after the same work.
            TooManyWrongTokensError: The same, once too often.
            ScopeMissingError: It is good for other things.
        """
        presented = _bearer(authorization)
        if presented is None:
            message = "this needs an API token, as in `Authorization: Bearer TOKEN`; an operator makes one"
            raise UnauthorizedError(message, presented=False)
        token = await self._catalog.token(api_token_id(presented))
        terms = _terms(presented) if token is None else _terms(presented, token.scopes, token.expires_at, token.drop_id)
        right = hmac.compare_digest(self._mac(terms), _NO_MAC if token is None else token.mac)
        fault = _fault(token, self._clock.now(), right=right, revoked=self._revoked)
        if token is None or fault is not None:
            # Ids of tokens that do not exist are no names: a guesser makes up as many as he likes.
            known_id = None if token is None else token.id
            self._wrong.count(Event(Act.WRONG_TOKENS, result=fault, token_id=known_id))
            wait_seconds = self._throttle.count(client, self._monotonic()) if client is not None else 0
            if wait_seconds:
                message = "too many wrong API tokens came; check yours, a right one is let in at any time"
                raise TooManyWrongTokensError(message, retry_after_seconds=wait_seconds)
            message = "the API token is not known, has expired or was revoked; ask an operator for a new one"
            raise UnauthorizedError(message, presented=True)
        if scope is not None and scope not in token.scopes:
            self._wrong.count(Event(Act.WRONG_TOKENS, result=f"without {scope.value}", token_id=token.id))
            message = f"the API token is not good for this; it takes one with the scope {scope.value}"
            raise ScopeMissingError(message, scope=scope.value)
        return token


def _fault(token: ApiToken | None, now: datetime, *, right: bool, revoked: Container[str]) -> str | None:
    """Say in a word, only for the audit, why a token is not let in; None if it is."""
    if token is None:
        return "unknown"
    if not right:
        return "changed"
    if token.revoked_at is not None or token.id in revoked:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now else None


def _bearer(authorization: str | None) -> str | None:
    """Return the token in an Authorization header; None where it is of another kind."""
    if authorization is None or not authorization.lower().startswith(_SCHEME):
        return None
    return authorization[len(_SCHEME) :].strip()[:_MOST_TOKEN_CHARACTERS] or None


def _terms(
    secret: str, scopes: Sequence[Scope] = (), expires_at: datetime | None = None, drop_id: str | None = None
) -> bytes:
    """Write what a token's MAC is over: the token, and the terms that nobody is to change."""
    expiry = None if expires_at is None else expires_at.isoformat(timespec="microseconds")
    return json.dumps([secret, sorted(scopes), expiry, drop_id]).encode("ascii")
