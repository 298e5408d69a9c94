"""What servers on one store ask each other: a port of the engine, of which `storage.files.neighbours` is one form."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Verb(StrEnum):
    """A wish to whoever writes an upload."""

    STOP = "stop"
    """Commit and let go: another wants to append."""
    COMMIT = "commit"
    """Commit, if nothing has come for a while, and go on."""


@dataclass(frozen=True, slots=True)
class Question:
    """A wish to another server.

    `offset` is where the asker wants to append, None to take over whatever there is. `ending` says why the upload is
    being ended, if it is.
    """

    verb: Verb
    upload_id: str
    offset: int | None = None
    ending: str | None = None


class Answer(StrEnum):
    """What another server says."""

    NONE = "none"
    """It does not write that upload."""
    PAST = "past"
    """It does, past the offset that the asker wants; it goes on."""
    DONE = "done"


Answering = Callable[[Question], Awaitable[Answer]]


class Neighbours(Protocol):
    """The other servers on this store. Only on the event loop; nothing rests on them, but how long others wait."""

    def open(self, answering: Answering) -> None:
        """Be there for the others, from now on."""
        ...

    def any(self) -> bool:
        """Tell whether there may be another; it costs next to nothing."""
        ...

    async def ask(self, question: Question, seconds: float) -> Answer:
        """Ask all others, and wait for so long at most; return the writer's answer, NONE if nobody was one."""
        ...

    def close(self) -> None:
        """Be gone."""
        ...


class Alone:
    """Implements `Neighbours` where there are none."""

    def open(self, answering: Answering) -> None:
        """Do nothing."""

    def any(self) -> bool:
        """Say no."""
        return False

    async def ask(self, question: Question, seconds: float) -> Answer:  # noqa: ARG002 - the port's
        """Have nobody answer."""
        return Answer.NONE

    def close(self) -> None:
        """Do nothing."""
