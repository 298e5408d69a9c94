"""Tokens that are for one drop-off: to them nothing else is there, so they learn of nothing else whether it is."""

from aiohttp import web

from dropoff_tus.audit import Act, Event
from server.http.appkeys import API_TOKEN_ID, WRONG_CREDENTIALS

LIMITED_TO: web.RequestKey[str] = web.RequestKey("token_drop_id", str)
"""Where a request has the one drop-off of its token; not there where the token is for all."""


def limited_to(request: web.Request) -> str | None:
    """Return the one drop-off that a request's token is for; None if it is for all."""
    return request.get(LIMITED_TO)


def outside(request: web.Request, drop_id: str | None) -> bool:
    """Tell whether a drop-off, None a new one, is another than the token's; answer as if it were not there.

    The audit learns of it.
    """
    own = limited_to(request)
    if own is None or own == drop_id:
        return False
    event = Event(Act.WRONG_TOKENS, own, result="of another drop-off", token_id=request[API_TOKEN_ID])
    request.app[WRONG_CREDENTIALS].count(event)
    return True
