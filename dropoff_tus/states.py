r"""The life of an upload as data: its states, and from which one it may go to which.

Theory of operation. The catalog keeps one of these states for every upload. OPEN takes bytes. When all are here the
server checks them: at once where that is quick, else in state CHECKING, in the background. COMPLETE is success. A
complete upload that is to end is WITHDRAWN first, in the transaction that says whether a concatenation has it. After
that none can claim it, and the next start looks at it again. So after a crash in between it ends or is complete once
more, as the store says. Every state leads to every end, and one end to another: an operator deletes what has expired.
"""

from enum import StrEnum


class UploadState(StrEnum):
    """Where an upload stands. Only OPEN takes bytes; only COMPLETE is success."""

    OPEN = "open"
    WITHDRAWN = "finishing"
    """The value is what the catalog stores and the API shows."""
    CHECKING = "checking"
    COMPLETE = "complete"
    REJECTED = "rejected"
    TERMINATED = "terminated"
    EXPIRED = "expired"
    DELETED = "deleted"


ENDED = (UploadState.REJECTED, UploadState.TERMINATED, UploadState.EXPIRED, UploadState.DELETED)
"""Nothing of an upload is left but its tombstone, and it takes nothing of its drop-off."""

TRANSITIONS: dict[UploadState, tuple[UploadState, ...]] = {
    UploadState.OPEN: (UploadState.CHECKING, UploadState.COMPLETE, *ENDED),
    UploadState.WITHDRAWN: (UploadState.CHECKING, UploadState.COMPLETE, *ENDED),
    UploadState.CHECKING: (UploadState.COMPLETE, *ENDED),
    UploadState.COMPLETE: (UploadState.WITHDRAWN, *ENDED),
    **{end: tuple(other for other in ENDED if other is not end) for end in ENDED},
}
"""To which states each may go."""

ALIVE = tuple(state for state in UploadState if state not in ENDED)
"""Something of the upload is here."""
UNFINISHED = tuple(state for state in UploadState if UploadState.COMPLETE in TRANSITIONS[state])
"""It may still become complete: it may hold a reservation, and a start looks at it."""
ACKNOWLEDGED = (UploadState.CHECKING, UploadState.COMPLETE)
"""The client knows that all its bytes are here."""
GIVEN_UP = (UploadState.REJECTED, UploadState.TERMINATED)
"""The client took it back, or sent what does not match its own digest: it counts as an attempt."""


def may_become(state: UploadState, new: UploadState) -> bool:
    """Tell whether an upload may go from one state to another; staying is no transition."""
    return new in TRANSITIONS[state]
