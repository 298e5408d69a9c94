"""The terms of a drop-off: window, sizes, types and names, number, bytes, disk. The time is an argument."""

import fnmatch
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from dropoff_tus.errors import (
    DropoffClosedError,
    DropoffExpiredError,
    DropoffFullError,
    DropoffNotOpenError,
    MaxSizeExceededError,
    NotSealedError,
    QuotaError,
    StorageFullError,
    TypeNotAllowedError,
)
from dropoff_tus.model import Dropoff, DropTerms, Metadata, Role, Usage
from dropoff_tus.shown import show_start

_TYPE_PATTERN = re.compile(r"[A-Za-z0-9!#$&^_.+*?\[\]-]+/[A-Za-z0-9!#$&^_.+*?\[\]-]+")
_ENDING = re.compile(r"(\.[A-Za-z0-9]+)+")
_SEVERAL = re.compile(r"[*.].*[,;|]\s*[*.].*|.*\{.*,.*\}.*|\*\.\w+(\s+\*\.\w+)+")
_MOST_TAKEN_CHARACTERS, _MOST_CAME_CHARACTERS = 500, 100
_NOTHING = "nothing was written"
WindowState = Literal["open", "closed", "not_open", "expired"]

STEP_BYTES = 1 << 30
"""So much at a time is kept free on the disk for an upload that receives, and reserved for one of unknown length."""
ATTEMPTS_PER_UPLOAD = 256
"""So many parts and given up uploads a drop-off takes for each of its `max_uploads`; a whole has 200 parts at most."""


@dataclass(frozen=True, slots=True)
class Space:
    """The disk at the time of a decision.

    `free_bytes` are free above the floor. `coming_bytes` has by drop-off the bytes that receiving uploads will take
    soon; idle ones keep no room.
    """

    free_bytes: int
    coming_bytes: Mapping[str, int] = field(default_factory=dict)

    def room_bytes(self, drop_id: str) -> int:
        """Return what a drop-off may count on: the others keep what is coming to them, an equal share at most each."""
        others = {drop: coming for drop, coming in self.coming_bytes.items() if drop != drop_id}
        share = max(0, self.free_bytes) // (len(others) + 1)
        kept = sum(min(coming, share) for coming in others.values())
        return self.free_bytes - kept - self.coming_bytes.get(drop_id, 0)


@dataclass(frozen=True, slots=True)
class Request:
    """A request to a drop-off. `reserve_bytes` is what is to be reserved now."""

    role: Role
    length: int | None
    reserve_bytes: int
    metadata: Metadata


def max_upload_bytes(server_max_bytes: int, terms: DropTerms) -> int:
    """Return the smaller of the two limits that are set; 0 means none."""
    return min((value for value in (server_max_bytes, terms.max_upload_bytes) if value), default=0)


def check_window(dropoff: Dropoff, now: datetime) -> None:
    """Refuse outside of the drop-off's window, or when it is closed.

    Raises:
        DropoffClosedError, DropoffNotOpenError, DropoffExpiredError: Which of it.
    """
    state = window_state(dropoff, now)
    if state == "closed":
        raise DropoffClosedError("this drop-off is closed; ask whoever gave you the code")
    if state == "not_open":
        raise DropoffNotOpenError("this drop-off is not open yet")
    if state == "expired":
        raise DropoffExpiredError("this drop-off has expired; ask whoever gave you the code")


def window_state(dropoff: Dropoff, now: datetime) -> WindowState:
    """Say in a word whether a drop-off takes uploads."""
    if dropoff.closed:
        return "closed"
    opens_at, expires_at = dropoff.terms.opens_at, dropoff.terms.expires_at
    if opens_at is not None and now < opens_at:
        return "not_open"
    if expires_at is not None and now >= expires_at:
        return "expired"
    return "open"


def check_size(size_bytes: int | None, limit_bytes: int) -> None:
    """Refuse a size above a limit; 0 means no limit, None a size that is not known yet.

    Raises:
        MaxSizeExceededError: It is above.
    """
    if limit_bytes and size_bytes is not None and size_bytes > limit_bytes:
        raise MaxSizeExceededError(f"one upload may have {limit_bytes} bytes at most", fate=_NOTHING)


def check_type(terms: DropTerms, metadata: Metadata) -> None:
    """Refuse a media type or file name that is not on the drop-off's lists.

    A missing type or name is on no list. Parameters of the type are not compared.

    Raises:
        TypeNotAllowedError: It is not.
    """
    filetype = (metadata.filetype or "").partition(";")[0].strip()
    for kind, came, taken in (
        ("type", filetype, terms.allowed_types),
        ("name", metadata.filename or "", terms.name_patterns),
    ):
        if taken and not any(_matches(came, pattern) for pattern in taken):
            those = show_start(", ".join(taken), _MOST_TAKEN_CHARACTERS)
            this = f"this file's is {show_start(came, _MOST_CAME_CHARACTERS)}" if came else f"no {kind} was sent"
            message = f"this drop-off takes files of the {kind} {those}, and {this}; nothing was written"
            raise TypeNotAllowedError(message)


def check_sealed(terms: DropTerms, metadata: Metadata) -> None:
    """Refuse what its sender did not seal, where the drop-off wants it. Whether it is, shows at its end.

    Raises:
        NotSealedError: The metadata does not say so.
    """
    if terms.seal_in_browser and metadata.sealed_by is None:
        message = (
            "this drop-off takes only files that were sealed before they were sent: use its page, or send age files to "
            "its recipients, with the metadata sealed-by: age"
        )
        raise NotSealedError(message, fate=_NOTHING)


def _matches(text: str, pattern: str) -> bool:
    """Compare without case, and without the difference between one character and the same one in parts (macOS).

    A name matches itself even if it can be read as a pattern. A character that folds to two, such as a sharp s, is
    still one for `?` and within brackets, since the unfolded forms are compared too.
    """
    folded, wanted = _folded(text), _folded(pattern)
    plain, unfolded = unicodedata.normalize("NFC", text), unicodedata.normalize("NFC", pattern)
    return folded == wanted or fnmatch.fnmatchcase(folded, wanted) or fnmatch.fnmatchcase(plain, unfolded)


def _folded(text: str) -> str:
    """Fold for a caseless comparison; the capital I with a dot is an i, whatever language is written.

    Source: The Unicode Standard, section 3.13, canonical caseless matching.
    """
    folded = unicodedata.normalize("NFD", text).casefold().replace("i\u0307", "i")
    return unicodedata.normalize("NFC", folded)


def type_problem(pattern: str) -> str | None:
    """Say what is wrong with a pattern of media types that no type could match, or None."""
    if _TYPE_PATTERN.fullmatch(pattern):
        return None
    return "is no type and matches nothing; write each by itself and without parameters, e.g. text/csv or image/*"


def name_problem(pattern: str) -> str | None:
    """Say what is wrong with a pattern of names that hardly any name could match, or None."""
    if not pattern or pattern != pattern.strip():
        return "matches nothing; write e.g. '*.vcf.gz'"
    if _ENDING.fullmatch(pattern):
        return f"matches no name but itself; write '*{pattern}', or '[.]{pattern[1:]}' if you mean that one file"
    if _SEVERAL.fullmatch(pattern):
        return "is one pattern, not several, and matches nothing; write each by itself, e.g. '*.csv'"
    return None


def check_space(more_bytes: int, dropoff: Dropoff, space: Space) -> None:
    """Refuse what the disk could not hold beside what is coming. Whether it holds it later, each batch sees.

    Raises:
        StorageFullError: The floor would be reached.
    """
    if more_bytes > space.room_bytes(dropoff.id):
        raise StorageFullError("the server's disk has no room for this", fate=_NOTHING)


def admit(
    dropoff: Dropoff, usage: Usage, request: Request, *, now: datetime, server_max_bytes: int, space: Space
) -> None:
    """Decide on a new upload. The order is that of the refusals.

    Raises:
        DropoffClosedError, DropoffNotOpenError, DropoffExpiredError, MaxSizeExceededError,
        TypeNotAllowedError, NotSealedError, DropoffFullError, QuotaError, StorageFullError: The first rule it breaks.
    """
    terms = dropoff.terms
    check_window(dropoff, now)
    check_size(request.length, max_upload_bytes(server_max_bytes, terms))
    if request.role is not Role.PARTIAL:
        # Parts bear neither type nor name, and the final counts for all of them.
        check_type(terms, request.metadata)
        check_sealed(terms, request.metadata)
        if terms.max_uploads and usage.uploads >= terms.max_uploads:
            raise DropoffFullError("this drop-off has received all the uploads it takes")
    if request.role is not Role.FINAL:
        # A final takes over what its parts have: it needs nothing of its own.
        if terms.max_uploads and usage.attempts >= terms.max_uploads * ATTEMPTS_PER_UPLOAD:
            message = "this drop-off has received all the parts and attempts it takes; ask whoever gave you the code"
            raise DropoffFullError(message)
        check_quota(terms, usage, request.reserve_bytes)
        check_space(request.reserve_bytes, dropoff, space)


def next_reservation(
    dropoff: Dropoff,
    usage: Usage,
    *,
    present_bytes: int,
    stored_bytes: int,
    needed_bytes: int,
    ahead_bytes: int,
    server_max_bytes: int,
    space: Space,
) -> int:
    """Decide how much an upload may have reserved from now on, while its length is deferred or becomes known.

    Args:
        dropoff: Whose limits hold.
        usage: Without this upload's own reservation.
        present_bytes: The bytes that it has reserved.
        stored_bytes: The part of it on the disk.
        needed_bytes: The total that it must get.
        ahead_bytes: How much beyond is welcome, as far as there is room.
        server_max_bytes: The server's limit of one upload, 0 for none.
        space: The disk, without what is coming to this upload.

    Returns:
        The new total: at least needed_bytes, at most needed_bytes + ahead_bytes.

    Raises:
        MaxSizeExceededError, QuotaError, StorageFullError: There is no room for needed_bytes.
    """
    terms = dropoff.terms
    limit = max_upload_bytes(server_max_bytes, terms)
    check_size(needed_bytes, limit)
    # The window does not matter: an upload that has begun may finish after the drop-off has closed.
    if needed_bytes > present_bytes:
        check_quota(terms, usage, needed_bytes)
        check_space(needed_bytes - stored_bytes, dropoff, space)
    total = needed_bytes + ahead_bytes
    if limit:
        total = min(total, limit)
    if terms.max_total_bytes:
        total = min(total, terms.max_total_bytes - usage.bytes)
    return max(needed_bytes, min(total, stored_bytes + space.room_bytes(dropoff.id)))


def check_quota(terms: DropTerms, usage: Usage, reserve_bytes: int) -> None:
    """Refuse what goes above the drop-off's bytes.

    Raises:
        QuotaError: It does.
    """
    if terms.max_total_bytes and usage.bytes + reserve_bytes > terms.max_total_bytes:
        left = max(0, terms.max_total_bytes - usage.bytes)
        raise QuotaError(f"this drop-off takes {left} bytes more", fate=_NOTHING)
