"""The decisions: a request and an upload's state in, a plan or a refusal out.

Theory of operation. An upload is *absent* (404), *ended* (410, also when it has expired and nobody has ended
it yet; while somebody receives for it, it does not expire), *whole* (every byte is here; finished, or the server is at
it) or *open*. A concatenation is whole from its creation on.

    request   absent  ended  concatenation    whole                    open
    HEAD      404     410    as whole         200, 423 till finished   200
    PATCH     404     410    403              204 at its end,          a plan; 409 elsewhere, 413 from here
                                              409 elsewhere            past an end, 400 another length
    DELETE    404     410    403, or ends it  403, or ends it          ends it

Checks run in this order: 404 and 410, 403, declared lengths, 409, 413 for a body that goes past the end. The lease
comes late, so that a hopeless request does not interrupt a healthy one; 409 is decided again under it.

Source: tus 1.0.0, HEAD, PATCH and DELETE; concatenation ("The Server MUST respond with the 403 Forbidden
status to PATCH requests against a final upload URL").
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from dropoff_tus.errors import (
    CatalogTamperedError,
    LengthFixedError,
    MaxSizeExceededError,
    MismatchedOffsetError,
    ModifyFinalError,
    TerminateFinishedError,
    TooManySegmentsError,
    UploadEndingError,
    UploadFinishingError,
    UploadGoneError,
    UploadNotFoundError,
    UploadSizeExceededError,
)
from dropoff_tus.headers import MAX_NUMBER
from dropoff_tus.messages import AppendPlan, BodyInfo, Patch
from dropoff_tus.model import Role, StoredUpload, UploadRow
from dropoff_tus.states import ACKNOWLEDGED, ENDED, UploadState

FREE_OVERHEAD_BYTES = 64 << 10
"""So much more than they hold, and an eighth of that, the pieces of an upload may take on the disk."""


def expires_at(upload: StoredUpload, expire_after_seconds: float) -> datetime | None:
    """Return when an unfinished upload expires: sliding from its last commit. None once whole.

    Source: tus 1.0.0, expiration, Upload-Expires.
    """
    if upload.whole or not expire_after_seconds:
        return None
    return upload.last_commit_at + timedelta(seconds=expire_after_seconds)


def check_present(upload: StoredUpload, now: datetime, expire_after_seconds: float, *, receiving: bool = False) -> None:
    """Refuse an upload that has ended or expired. While somebody is `receiving` for it, it does not expire.

    Raises:
        UploadGoneError: It has.
    """
    if upload.ended is not None:
        raise gone(upload.ended, upload.end_reason)
    if not receiving and is_overdue(upload, now, expire_after_seconds):
        raise gone(UploadState.EXPIRED)


def is_overdue(upload: StoredUpload, now: datetime, expire_after_seconds: float) -> bool:
    """Tell whether an unfinished upload has had no commit for too long: it has expired unless somebody receives."""
    deadline = expires_at(upload, expire_after_seconds)
    return deadline is not None and now >= deadline


def forgotten_parts(unclaimed: Sequence[UploadRow], now: datetime, expire_after_seconds: float) -> list[UploadRow]:
    """Return the complete parts that time ends: no concatenation took them, and their siblings are done with too.

    A client uploads the parts of a file side by side, and joins them when the last one is complete. Nothing says which
    belong together, so a part waits for every other one of its drop-off that began within its own time, as long as
    that goes on or was itself completed less than `expire_after_seconds` ago. Later uploads keep no part alive, so an
    unused part ends eventually, however busy its drop-off is.

    Args:
        unclaimed: All partials that no final has and that are not ended, once the idle ones are.
        now: The time.
        expire_after_seconds: How long an upload may be idle.
    """
    after = timedelta(seconds=expire_after_seconds)
    old: list[tuple[UploadRow, datetime]] = []
    first_going_on: dict[str, datetime] = {}
    for row in unclaimed:
        if row.state is UploadState.COMPLETE and row.completed_at is not None and row.completed_at + after <= now:
            old.append((row, row.completed_at + after))
        else:
            first_going_on[row.drop_id] = min(row.created_at, first_going_on.get(row.drop_id, row.created_at))
    return [row for row, its_time in old if row.drop_id not in first_going_on or first_going_on[row.drop_id] > its_time]


def absent() -> UploadNotFoundError:
    """Make the refusal for an upload that is not here, or in another drop-off."""
    return UploadNotFoundError("there is no such upload here; create it with POST")


def gone(state: UploadState, why: str | None = None) -> UploadGoneError:
    """Make the refusal for an upload that ended; `why` is a fixed phrase."""
    reason = f" ({why})" if why else ""
    return UploadGoneError(f"this upload was {state.value}{reason} and its bytes are gone; create a new one")


def disagreement(row: UploadRow, stored: StoredUpload) -> str | None:
    """Say what the catalog says otherwise than the signed log, from which it never differs unless it was changed."""
    facts = (
        ("its drop-off", row.drop_id, stored.drop_id),
        ("its mode", row.mode.value, stored.mode.value),
        ("its role", row.role.value, stored.role.value),
        ("its length", row.length, stored.length),
        ("its size", row.size_bytes, stored.offset if stored.final and stored.ended is None else None),
    )
    for name, said, signed in facts:
        if said is not None and signed is not None and said != signed:
            return f"the catalog says that {name} is {said}, the signed log {signed}: the catalog was changed"
    return None


def check_agrees(row: UploadRow, stored: StoredUpload) -> None:
    """Refuse to act on an upload for what its row says, where the signed log says otherwise.

    Raises:
        CatalogTamperedError: It does.
    """
    problem = disagreement(row, stored)
    if problem is not None:
        raise CatalogTamperedError(f"upload {row.id}: {problem}. Nothing was done; its bytes are safe")


BYTES_GO = "the arrived bytes go with it"
"""The fate of what was sent for an upload that is being ended."""


def ending(state: UploadState, why: str) -> UploadEndingError:
    """Make what interrupts whoever is sending for an upload that is being ended; `why` is a fixed phrase."""
    message = f"this upload is being ended ({state.value}: {why})"
    return UploadEndingError(message, fate=BYTES_GO)


def is_success(state: UploadState | None) -> bool:
    """Tell whether a client may go home, for the state in which the catalog has its whole upload, if it has it.

    Raises:
        UploadGoneError: It ended.
    """
    if state is not None and state in ENDED:
        raise gone(state)
    return state in ACKNOWLEDGED


def decide_head(upload: StoredUpload, state: UploadState | None) -> None:
    """Decide on a HEAD. `state` is the catalog's, which matters where the upload is whole.

    Raises:
        UploadGoneError: It ended.
        UploadFinishingError: All bytes are here, but it may still be rejected: a client that reads offset = length
            goes home.
    """
    if upload.whole and not is_success(state):
        raise UploadFinishingError("all bytes are here and the server is finishing; ask again shortly")


def decide_patch(upload: StoredUpload, request: Patch, max_bytes: int) -> AppendPlan:
    """Decide on a PATCH, before the lease and again under it. `max_bytes` limits one upload, 0 for none.

    Raises:
        ModifyFinalError, LengthFixedError, MismatchedOffsetError, MaxSizeExceededError,
        UploadSizeExceededError: In this order, but for a declared length above the maximum, which no offset mends. Only
            a hopeless offset is refused here, one that is behind or from which the body goes past the end: before the
            lease, bytes of a running PATCH may still become durable. `check_offset` decides then.

    Source: tus 1.0.0, PATCH ("If the offsets do not match, the Server MUST respond with the 409 Conflict
    status without modifying the upload resource"); creation, Upload-Defer-Length ("Once set the length MUST
    NOT be changed").
    """
    if upload.role is Role.FINAL:
        raise ModifyFinalError("a concatenation takes no bytes")
    length = _length_after(upload, request, max_bytes)
    if upload.whole:
        if request.offset != upload.offset:
            raise mismatch(upload)
        return AppendPlan(request.offset, 0, request.body.length, ignore_body=True)
    declare = request.declared_length if upload.length is None else None
    try:
        plan = plan_body(request.offset, length, request.body, max_bytes, declare=declare)
    except (UploadSizeExceededError, MaxSizeExceededError):
        # From a wrong offset any end is wrong, and HEAD says where to go on.
        if request.offset != upload.offset:
            raise mismatch(upload) from None
        raise
    if request.offset < upload.offset:
        raise mismatch(upload)
    return plan


def plan_body(
    offset: int, length: int | None, body: BodyInfo, max_bytes: int, *, declare: int | None = None
) -> AppendPlan:
    """Plan a body at an offset of an upload of this length (None: deferred). `max_bytes` limits one upload.

    Raises:
        UploadSizeExceededError, MaxSizeExceededError: Content-Length says that it goes past the end.
    """
    limit_end = length if length is not None else (max_bytes or MAX_NUMBER)
    past = UploadSizeExceededError if length is not None else MaxSizeExceededError
    if body.length is not None and offset + body.length > limit_end:
        raise past(f"the body goes past {limit_end} bytes; nothing was written")
    return AppendPlan(
        offset=offset,
        limit_bytes=max(0, limit_end - offset) if body.length is None else body.length,
        expected_bytes=body.length,
        declare_length=declare,
        checksum=body.checksum,
        past_limit=past.code,
    )


def check_offset(upload: StoredUpload, plan: AppendPlan) -> None:
    """Refuse, under the lease, a plan for another offset than the durable one.

    Raises:
        MismatchedOffsetError: It is; nothing was written.
    """
    if plan.offset != upload.offset:
        raise mismatch(upload)


def may_cost(reach: int) -> int:
    """Return how many bytes the pieces of so much plaintext may take on the disk beyond it."""
    return FREE_OVERHEAD_BYTES + reach // 8


def check_pieces(upload: StoredUpload, plan: AppendPlan) -> None:
    """Refuse, under the lease, a piece too small beside what the pieces before it cost on the disk.

    They may cost `FREE_OVERHEAD_BYTES` and an eighth of the plaintext that there is with this piece, so a large enough
    one always helps; the piece that ends the upload may cost as much again.

    Raises:
        TooManySegmentsError: They cost more; nothing was written.
    """
    length = upload.length if plan.declare_length is None else plan.declare_length
    known = plan.expected_bytes is not None or length is not None
    reach = plan.offset + (plan.limit_bytes if known else 0)
    if upload.overhead_bytes > may_cost(reach) + (FREE_OVERHEAD_BYTES if reach == length else 0):
        raise TooManySegmentsError(
            f"this upload came in pieces so small that it takes {upload.overhead_bytes} bytes more than it holds; "
            f"it is at {upload.offset}, go on in larger pieces, best with all that is left. Nothing was written"
        )


def mismatch(upload: StoredUpload) -> MismatchedOffsetError:
    """Make the refusal for a wrong offset."""
    return MismatchedOffsetError(f"the upload is at {upload.offset}; nothing was written")


def check_delete(upload: StoredUpload, *, terminate_finished: bool) -> None:
    """Refuse DELETE of a finished upload unless the operator allows it.

    Raises:
        TerminateFinishedError: It is finished.
    """
    if upload.whole and not terminate_finished:
        raise TerminateFinishedError("a finished upload cannot be taken back; ask whoever gave you the code")


def _length_after(upload: StoredUpload, request: Patch, max_bytes: int) -> int | None:
    declared = request.declared_length
    if declared is None:
        return upload.length
    if upload.length is not None and declared != upload.length:
        raise LengthFixedError(f"the length {upload.length} was declared before and stays; nothing was written")
    if declared < upload.offset:
        raise LengthFixedError(f"Upload-Length is below the {upload.offset} bytes that are here; nothing was written")
    if max_bytes and declared > max_bytes:
        raise MaxSizeExceededError(f"one upload may have {max_bytes} bytes at most; nothing was written")
    return declared
