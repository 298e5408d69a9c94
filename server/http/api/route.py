"""One operation of the API: its scope, its request and its answer."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from pydantic import BaseModel

from dropoff_tus.model import Scope


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. `refusals` are the statuses it may answer beside those that all may."""

    method: str
    path: str
    name: str
    summary: str
    scope: Scope
    handler: Callable[[web.Request], Awaitable[BaseModel | web.StreamResponse]]
    answer: type[BaseModel] | None
    status: int = 200
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    body_needed: bool = True
    ranges: bool = False
    later: bool = False
    """Whether it may answer 202 and go on; then the same request is made again."""
    refusals: tuple[int, ...] = ()
