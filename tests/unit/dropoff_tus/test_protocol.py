"""Tests of the decision table: states by requests."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dropoff_tus import errors, protocol
from dropoff_tus.messages import AppendPlan, BodyInfo, Patch
from dropoff_tus.model import Mode, Role, StoredUpload
from dropoff_tus.states import ENDED, UploadState

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DAY = 86400.0
OPEN = StoredUpload(
    id="1" * 32,
    drop_id="3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a",
    role=Role.REGULAR,
    mode=Mode.MANAGED,
    created_at=NOW,
    last_commit_at=NOW,
    offset=3,
    length=10,
)
DEFERRED = replace(OPEN, length=None)
WHOLE = replace(OPEN, offset=10)
FINISHED = replace(WHOLE, final=True)
FINAL = replace(OPEN, role=Role.FINAL, offset=0, length=10, parts=("2" * 32,))


def _patch(offset: int, body: int | None = 0, length: int | None = None) -> Patch:
    return Patch(offset, BodyInfo(body), length)


# ---- PATCH -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("upload", "request_", "limit_bytes"),
    [
        (OPEN, _patch(3, 7), 7),
        (OPEN, _patch(3, 2), 2),
        (OPEN, _patch(3, None), 7),
        (OPEN, _patch(5, 5), 5),
        (OPEN, _patch(3, 7, 10), 7),
    ],
    ids=["to-the-end", "some", "chunked", "ahead", "same-length-again"],
)
def test_patch_on_open_upload_is_planned(upload: StoredUpload, request_: Patch, limit_bytes: int) -> None:
    """The plan says where, how much at most, and what is expected. An offset ahead may become right."""
    plan = protocol.decide_patch(upload, request_, 0)
    assert plan == AppendPlan(request_.offset, limit_bytes, request_.body.length)


def test_patch_chunked_past_a_declared_length_ends_in_its_own_error() -> None:
    """The plan names the error for a body that goes on."""
    assert protocol.decide_patch(OPEN, _patch(3, None), 0).past_limit == "ERR_UPLOAD_SIZE_EXCEEDED"
    plan = protocol.decide_patch(DEFERRED, _patch(3, None), 20)
    assert (plan.past_limit, plan.limit_bytes) == ("ERR_MAX_SIZE_EXCEEDED", 17)


@pytest.mark.parametrize(
    ("upload", "request_", "error"),
    [
        (OPEN, _patch(2, 1), errors.MismatchedOffsetError),
        (OPEN, _patch(3, 8), errors.UploadSizeExceededError),
        (OPEN, _patch(2, 9), errors.MismatchedOffsetError),
        (OPEN, _patch(5, 6), errors.MismatchedOffsetError),
        (DEFERRED, _patch(0, 21), errors.MismatchedOffsetError),
        (DEFERRED, _patch(4, 3, 5), errors.MismatchedOffsetError),
        (OPEN, _patch(3, 1, 11), errors.LengthFixedError),
        (OPEN, _patch(2, 1, 9), errors.LengthFixedError),
        (DEFERRED, _patch(3, 1, 2), errors.LengthFixedError),
        (DEFERRED, _patch(3, 1, 21), errors.MaxSizeExceededError),
        (DEFERRED, _patch(3, 18), errors.MaxSizeExceededError),
        (DEFERRED, _patch(3, 3, 5), errors.UploadSizeExceededError),
        (WHOLE, _patch(9, 1), errors.MismatchedOffsetError),
        (WHOLE, _patch(11, 1), errors.MismatchedOffsetError),
        (FINISHED, _patch(0, 0), errors.MismatchedOffsetError),
        (FINISHED, _patch(10, 0, 9), errors.LengthFixedError),
        (FINAL, _patch(0, 0), errors.ModifyFinalError),
        (FINAL, _patch(99, 0, 5), errors.ModifyFinalError),
    ],
    ids=range(18),
)
def test_patch_is_refused_by_the_first_rule_it_breaks(
    upload: StoredUpload, request_: Patch, error: type[errors.DropoffError]
) -> None:
    """Concatenation, declared lengths, the offset, the body's end; the server's limit is 20 here."""
    with pytest.raises(error):
        protocol.decide_patch(upload, request_, 20)


@pytest.mark.parametrize("upload", [WHOLE, FINISHED])
@pytest.mark.parametrize("body", [0, 5, None])
def test_patch_at_the_end_of_a_whole_upload_ignores_its_body(upload: StoredUpload, body: int | None) -> None:
    """A client that missed the answer repeats, and nothing is kept of what it sends."""
    plan = protocol.decide_patch(upload, _patch(10, body), 0)
    assert plan.ignore_body
    assert plan.limit_bytes == 0


def test_patch_declares_a_deferred_length_once() -> None:
    """The plan carries the length only while it is not fixed yet."""
    plan = protocol.decide_patch(DEFERRED, _patch(3, 2, 5), 20)
    assert (plan.declare_length, plan.limit_bytes) == (5, 2)
    assert protocol.decide_patch(OPEN, _patch(3, 2, 10), 20).declare_length is None


def test_patch_declaring_the_present_offset_completes_without_bytes() -> None:
    """Some clients learn of the end late and send an empty last PATCH."""
    plan = protocol.decide_patch(DEFERRED, _patch(3, 0, 3), 20)
    assert (plan.declare_length, plan.limit_bytes, plan.ignore_body) == (3, 0, False)


def test_offset_is_compared_under_the_lease() -> None:
    """Ahead of the durable offset is refused then at the latest."""
    protocol.check_offset(OPEN, AppendPlan(3, 1, 1))
    with pytest.raises(errors.MismatchedOffsetError, match="at 3"):
        protocol.check_offset(OPEN, AppendPlan(5, 1, 1))


# ---- presence --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", sorted(ENDED))
def test_presence_of_an_ended_upload_is_gone(state: UploadState) -> None:
    """Every way to end is 410 with a word on how."""
    with pytest.raises(errors.UploadGoneError, match=state.value):
        protocol.check_present(replace(OPEN, ended=state), NOW, 0)


def test_presence_ends_when_the_upload_expires() -> None:
    """The deadline itself is too late, a moment before is not."""
    deadline = NOW + timedelta(seconds=DAY)
    protocol.check_present(OPEN, deadline - timedelta(microseconds=1), DAY)
    with pytest.raises(errors.UploadGoneError):
        protocol.check_present(OPEN, deadline, DAY)


@pytest.mark.parametrize("upload", [WHOLE, FINISHED, FINAL])
def test_presence_of_a_whole_upload_never_ends_by_time(upload: StoredUpload) -> None:
    """Bytes that were acknowledged as all are never lost to a clock, also while finishing is delayed."""
    protocol.check_present(upload, NOW + timedelta(days=9999), DAY)
    assert protocol.expires_at(upload, DAY) is None


def test_expiry_slides_from_the_last_commit_and_can_be_off() -> None:
    """0 seconds means never."""
    later = replace(OPEN, last_commit_at=NOW + timedelta(hours=5))
    assert protocol.expires_at(later, DAY) == NOW + timedelta(hours=29)
    assert protocol.expires_at(later, 0) is None


# ---- HEAD ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [None, *UploadState])
@pytest.mark.parametrize("upload", [OPEN, DEFERRED])
def test_head_of_an_open_upload_is_answered(upload: StoredUpload, state: UploadState | None) -> None:
    """The store is the truth about bytes: the catalog's state matters only once all are here."""
    protocol.decide_head(upload, state)


@pytest.mark.parametrize("upload", [WHOLE, FINISHED, FINAL])
def test_head_of_a_whole_upload_waits_for_the_catalog(upload: StoredUpload) -> None:
    """A client that reads offset = length goes home, so it may not before its upload is recorded as a success."""
    for success in (UploadState.COMPLETE, UploadState.CHECKING):
        protocol.decide_head(upload, success)
    for not_yet in (None, UploadState.OPEN, UploadState.WITHDRAWN):
        with pytest.raises(errors.UploadFinishingError):
            protocol.decide_head(upload, not_yet)
    for end in ENDED:
        with pytest.raises(errors.UploadGoneError, match=end.value):
            protocol.decide_head(upload, end)


# ---- DELETE ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("upload", [OPEN, DEFERRED])
def test_delete_of_open_upload_is_allowed(upload: StoredUpload) -> None:
    """While it is unfinished, the URL is the right to end it."""
    protocol.check_delete(upload, terminate_finished=False)


@pytest.mark.parametrize("upload", [WHOLE, FINISHED, FINAL])
def test_delete_of_whole_upload_needs_the_operators_leave(upload: StoredUpload) -> None:
    """A finished upload stays, unless the configuration says otherwise."""
    protocol.check_delete(upload, terminate_finished=True)
    with pytest.raises(errors.TerminateFinishedError):
        protocol.check_delete(upload, terminate_finished=False)


def _check_pieces(overhead: int, body: int | None, *, length: int | None = 10**9, declare: int | None = None) -> None:
    upload = replace(OPEN, offset=800_000, length=length, overhead_bytes=overhead)
    plan = protocol.decide_patch(upload, _patch(800_000, body, declare), 0)
    protocol.check_pieces(upload, plan)


@pytest.mark.parametrize(
    ("length", "body", "declare", "most"),
    [
        (10**9, 8, None, 64 * 1024 + 100_001),
        (10**9, 80_000_000, None, 64 * 1024 + 10_100_000),
        (10**9, None, None, 2 * 64 * 1024 + 125_000_000),
        (None, None, None, 64 * 1024 + 100_000),
        (None, 8, None, 64 * 1024 + 100_001),
        (800_008, 8, None, 2 * 64 * 1024 + 100_001),
        (None, 8, 800_008, 2 * 64 * 1024 + 100_001),
    ],
    ids=["small", "large", "chunked", "deferred-chunked", "deferred", "last", "declared-last"],
)
def test_pieces_may_cost_a_share_and_the_last_may_end_it(
    length: int | None, body: int | None, declare: int | None, most: int
) -> None:
    """The overhead of an upload is bounded; a piece that is large enough always goes on."""
    _check_pieces(most, body, length=length, declare=declare)
    with pytest.raises(errors.TooManySegmentsError, match="larger pieces"):
        _check_pieces(most + 1, body, length=length, declare=declare)
