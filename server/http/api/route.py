"""One operation of the API: its scope, its request and its answer."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web
from pydantic import BaseModel

from dropoff_tus.model import Scope


class Handler(Protocol):
    """A coroutine function that answers a request: with a model, which is shown as JSON, or by itself."""

    __name__: str

    def __call__(self, request: web.Request, /) -> Awaitable[BaseModel | web.StreamResponse]:
        """Answer."""
        ...


@dataclass(frozen=True, slots=True)
class Route:
    """One operation, described by its handler's name and the first line of its docstring.

    `refusals` are the statuses it may answer beside those that all may.
    """

    method: str
    path: str
    scope: Scope
    handler: Handler
    answer: type[BaseModel] | None
    status: int = 200
    query: type[BaseModel] | None = None
    body: type[BaseModel] | None = None
    body_needed: bool = True
    ranges: bool = False
    content: str = "application/octet-stream"
    """The media type where there is no model."""
    later: bool = False
    """Whether it may answer 202 and go on; then the same request is made again."""
    refusals: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Its name in the description and in the log: listDrops, say."""
        first, *others = self.handler.__name__.split("_")
        return first + "".join(word.title() for word in others)

    @property
    def summary(self) -> str:
        """A sentence on what it does, without its full stop."""
        return (self.handler.__doc__ or "").partition("\n")[0].rstrip(".")
