"""Tests of what a drop-off accepts."""

import unicodedata
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dropoff_tus import errors, policy
from dropoff_tus.model import Dropoff, DropTerms, Metadata, Role, Usage
from tests.support.drops import changed

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DROP = Dropoff(
    id="3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a",
    created_at=NOW - HOUR,
    terms=DropTerms("test"),
)
NOTHING = Usage(0, 0)
NO_METADATA = Metadata()
ROOMY = policy.Space(1 << 50)


def _limited(**limits: object) -> Dropoff:
    return changed(DROP, **limits)


def _admit(
    dropoff: Dropoff = DROP,
    usage: Usage = NOTHING,
    *,
    length: int | None = 5,
    role: Role = Role.REGULAR,
    metadata: Metadata = NO_METADATA,
    server_max_bytes: int = 0,
    space: policy.Space = ROOMY,
) -> None:
    request = policy.Request(role, length, length or 0, metadata)
    policy.admit(dropoff, usage, request, now=NOW, server_max_bytes=server_max_bytes, space=space)


# ---- window ----------------------------------------------------------------------------------------------------


def test_admit_without_limits_takes_anything() -> None:
    """0 means no limit everywhere."""
    _admit(length=2**62, space=policy.Space(2**62))


@pytest.mark.parametrize(
    ("dropoff", "error"),
    [
        (replace(DROP, closed=True), errors.DropoffClosedError),
        (changed(DROP, opens_at=NOW + HOUR), errors.DropoffNotOpenError),
        (changed(DROP, expires_at=NOW), errors.DropoffExpiredError),
        (changed(replace(DROP, closed=True), expires_at=NOW - HOUR), errors.DropoffClosedError),
    ],
    ids=["closed", "not-open", "expired", "both"],
)
def test_admit_outside_the_window_is_refused(dropoff: Dropoff, error: type[errors.DropoffError]) -> None:
    """A closed or expired drop-off takes nothing new."""
    with pytest.raises(error):
        _admit(dropoff)


def test_admit_at_the_edges_of_the_window_follows_half_open_time() -> None:
    """The first moment counts, the last does not."""
    _admit(changed(DROP, opens_at=NOW, expires_at=NOW + timedelta(microseconds=1)))


# ---- sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("server", "drop"), [(10, 0), (0, 10), (10, 20), (20, 10)])
def test_admit_holds_the_smaller_size_limit(server: int, drop: int) -> None:
    """At the limit is in, one byte above is out."""
    dropoff = _limited(max_upload_bytes=drop)
    _admit(dropoff, length=10, server_max_bytes=server)
    with pytest.raises(errors.MaxSizeExceededError):
        _admit(dropoff, length=11, server_max_bytes=server)


def test_admit_of_deferred_length_reserves_nothing_yet() -> None:
    """Limits are held when the length is declared or reached."""
    _admit(_limited(max_upload_bytes=1, max_total_bytes=1), Usage(0, 1), length=None)


# ---- type and name ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filetype", "taken"),
    [
        (b"image/png", True),
        (b"IMAGE/PNG; charset=x", True),
        (b"application/pdf", True),
        (b"text/html", False),
        (b"", False),
        (None, False),
    ],
    ids=["glob", "case-parameter", "exact", "other", "empty", "absent"],
)
def test_admit_holds_the_allowed_types(filetype: bytes | None, taken: bool) -> None:
    """Types may have wildcards; no type is no allowed type."""
    dropoff = _limited(allowed_types=("image/*", "application/PDF"))
    metadata = Metadata(() if filetype is None else (("filetype", filetype),))
    if taken:
        _admit(dropoff, metadata=metadata)
    else:
        with pytest.raises(errors.TypeNotAllowedError):
            _admit(dropoff, metadata=metadata)


@pytest.mark.parametrize(("name", "taken"), [(b"A.CSV", True), (b"a.csv.exe", False), (b"", False)])
def test_admit_holds_the_name_patterns(name: bytes, taken: bool) -> None:
    """Names are compared whole and without case."""
    dropoff = _limited(name_patterns=("*.csv",))
    metadata = Metadata((("filename", name),))
    if taken:
        _admit(dropoff, metadata=metadata)
    else:
        with pytest.raises(errors.TypeNotAllowedError):
            _admit(dropoff, metadata=metadata)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("gr\xf6\xdfe*.csv", "gro\u0308\xdfe-1.csv"),
        ("gro\u0308\xdfe*.csv", "gr\xf6\xdfe-1.csv"),
        ("GR\xd6SSE.CSV", "gro\u0308\xdfe.csv"),
        ("stra\xdfe.txt", "STRASSE.TXT"),
        ("*.\u0130NF", "a.\u0130NF"),
        ("*.\u0130NF", "a.I\u0307NF"),
        ("istanbul.csv", "\u0130STANBUL.csv"),
        ("\u0391\u03a3.csv", "\u03b1\u03c2.csv"),
        ("?.csv", "e\u0301.csv"),
        ("?.csv", "\xdf.csv"),
        ("[\xe9\xdf].csv", "e\u0301.csv"),
        ("[\xe9\xdf].csv", "\xdf.csv"),
        ("\uac00*", "\u1100\u1161.csv"),
        ("data[1].csv", "data[1].csv"),
        ("DATA[1].csv", "data[1].CSV"),
        ("data[1].csv", "data1.csv"),
        ("a[!b].csv", "a[!b].csv"),
        ("what?[.txt", "what?[.txt"),
    ],
)
def test_admit_compares_names_as_people_read_them(pattern: str, name: str) -> None:
    """In one character or in parts (macOS), in either case, and a name matches itself; the sent name stays."""
    metadata = Metadata((("filename", name.encode()),))
    _admit(_limited(name_patterns=("*.never", pattern)), metadata=metadata)
    assert metadata.filename == name
    # Unlike names stay so.
    with pytest.raises(errors.TypeNotAllowedError):
        _admit(_limited(name_patterns=(pattern,)), metadata=Metadata((("filename", f"x{name}x".encode()),)))


@given(st.text(min_size=1), st.sampled_from(("NFC", "NFD")))
def test_admit_takes_the_name_that_a_drop_off_names(name: str, form: Literal["NFC", "NFD"]) -> None:
    """Any text, in any form."""
    metadata = Metadata((("filename", unicodedata.normalize(form, name).encode()),))
    _admit(_limited(name_patterns=(name,)), metadata=metadata)


@pytest.mark.parametrize(
    ("limits", "sent", "told"),
    [
        ({"allowed_types": ("text/csv", "image/*")}, {"filetype": b"text/html; x=y"}, "text/html"),
        ({"allowed_types": ("text/csv", "image/*")}, {}, "no type was sent"),
        ({"name_patterns": ("*.csv", "*.zip")}, {"filename": b"a.exe"}, "a.exe"),
        ({"name_patterns": ("*.csv", "*.zip")}, {}, "no name was sent"),
        ({"name_patterns": ("*.csv",)}, {"filename": "\x1b[2J\n\u202egpj.exe".encode()}, r"\x1b[2J\n\u202egpj.exe"),
        ({"name_patterns": ("*.csv",)}, {"filename": b"n" * 9000}, "n" * 100 + "..."),
        ({"name_patterns": ("*.csv",) * 500}, {"filename": b"a"}, "..., and this file's is a"),
    ],
)
def test_admit_names_what_is_taken_and_what_came(
    limits: dict[str, tuple[str, ...]], sent: dict[str, bytes], told: str
) -> None:
    """In one line that steers no terminal, of a bounded length."""
    with pytest.raises(errors.TypeNotAllowedError) as caught:
        _admit(_limited(**limits), metadata=Metadata(tuple(sent.items())))
    message = caught.value.message
    assert told in message
    assert "text/csv, image/*" in message or "*.csv" in message
    assert message.isprintable()
    assert len(message) < 800


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        *(
            (good, True)
            for good in ("text/csv", "image/*", "*/*", "application/vnd.ms-excel", "image/svg+xml", "text/[!h]*")
        ),
        *((bad, False) for bad in ("", "csv", ".csv", "*", "*.csv", "text/csv,image/png", "text/csv;header=present")),
        *((bad, False) for bad in (" text/csv", "text/csv ", "text / csv", "text/csv image/png", "/", "a/b/c")),
    ],
)
def test_type_that_none_can_be_has_a_problem(pattern: str, fits: bool) -> None:
    """It would refuse all files without a word."""
    assert (policy.type_problem(pattern) is None) == fits


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        *(
            (good, True)
            for good in (
                "*.csv",
                "data[1].csv",
                "Smith, John.pdf",
                "a*,b*.csv",
                "[.]csv",
                "* *.csv",
                "*",
                ".a*",
                "a.csv",
            )
        ),
        *(
            (bad, False)
            for bad in ("", " *.csv", "*.csv\n", ".csv", ".tar.gz", "*.csv,*.zip", "*.csv, .zip", "*.{csv,zip}")
        ),
        *((bad, False) for bad in ("*.csv;*.zip", "*.csv|*.zip", ".csv,.zip", "*.csv *.zip")),
    ],
)
def test_name_that_is_a_mistake_has_a_problem(pattern: str, fits: bool) -> None:
    """A list in one pattern, or an ending without a star; names with a comma are names."""
    assert (policy.name_problem(pattern) is None) == fits


def test_admit_of_partial_asks_neither_type_nor_number() -> None:
    """tus-js-client gives parts no metadata, and the final counts for all."""
    dropoff = _limited(allowed_types=("image/*",), name_patterns=("*.png",), max_uploads=1)
    _admit(dropoff, Usage(1, 0), role=Role.PARTIAL)


# ---- number, bytes, disk ---------------------------------------------------------------------------------------


def test_admit_of_number_used_up_is_refused() -> None:
    """The last one is in, the next is out."""
    dropoff = _limited(max_uploads=2)
    _admit(dropoff, Usage(1, 0))
    with pytest.raises(errors.DropoffFullError):
        _admit(dropoff, Usage(2, 0))


@pytest.mark.parametrize("role", [Role.REGULAR, Role.PARTIAL])
def test_admit_of_bytes_used_up_is_refused_and_says_what_is_left(role: Role) -> None:
    """Complete and reserved bytes count alike, also for partials."""
    dropoff = _limited(max_total_bytes=100)
    _admit(dropoff, Usage(0, 95), role=role)
    with pytest.raises(errors.QuotaError, match="4 bytes more"):
        _admit(dropoff, Usage(0, 96), role=role)


def test_admit_of_final_needs_neither_bytes_nor_disk() -> None:
    """Its parts have both already."""
    dropoff = _limited(max_total_bytes=100)
    _admit(dropoff, Usage(0, 100), length=100, role=Role.FINAL, space=policy.Space(-1))


def test_admit_of_final_holds_size_number_and_type() -> None:
    """A final is what counts as an upload."""
    with pytest.raises(errors.MaxSizeExceededError):
        _admit(_limited(max_upload_bytes=9), length=10, role=Role.FINAL)
    with pytest.raises(errors.DropoffFullError):
        _admit(_limited(max_uploads=1), Usage(1, 0), role=Role.FINAL)
    with pytest.raises(errors.TypeNotAllowedError):
        _admit(_limited(allowed_types=("image/*",)), role=Role.FINAL)


@pytest.mark.parametrize(
    ("free", "coming", "taken"),
    [
        (5, {}, True),
        (4, {}, False),
        (15, {"other": 10}, True),
        (14, {"other": 10}, True),
        (9, {"other": 10}, True),
        (8, {"other": 10}, False),
        (15, {DROP.id: 10}, True),
        (14, {DROP.id: 10}, False),
        (15, {"one": 1 << 40, "other": 1 << 40}, True),
        (13, {"one": 1 << 40, "other": 1 << 40}, True),
        (12, {"one": 1 << 40, "other": 1 << 40}, False),
        (15, {"one": 10, "other": 0}, True),
    ],
    ids=range(12),
)
def test_admit_keeps_room_for_what_is_coming_in_shares(free: int, coming: dict[str, int], taken: bool) -> None:
    """Receiving uploads keep their bytes free, but other drop-offs no more than an equal share each."""
    if taken:
        _admit(space=policy.Space(free, coming))
    else:
        with pytest.raises(errors.StorageFullError):
            _admit(space=policy.Space(free, coming))


def test_admit_bounds_parts_and_attempts_by_the_number_of_uploads() -> None:
    """Empty parts, and creations that are given up, leave files too; the whole of many parts is still let in."""
    dropoff = _limited(max_uploads=2)
    last = Usage(0, 0, 2 * policy.ATTEMPTS_PER_UPLOAD - 1)
    for role in (Role.PARTIAL, Role.REGULAR):
        _admit(dropoff, last, role=role)
        with pytest.raises(errors.DropoffFullError, match="parts and attempts"):
            _admit(dropoff, replace(last, attempts=last.attempts + 1), role=role)
    _admit(dropoff, replace(last, attempts=last.attempts + 1), role=Role.FINAL)
    _admit(DROP, replace(last, attempts=1 << 20))


def test_admit_tells_the_refusals_in_order() -> None:
    """The refusal names the first rule that does not hold."""
    dropoff = replace(
        _limited(max_upload_bytes=4, max_total_bytes=4, max_uploads=1, allowed_types=("image/*",)), closed=True
    )
    usage, full = Usage(1, 4), policy.Space(0)
    steps: list[tuple[type[errors.DropoffError], dict[str, object]]] = [
        (errors.DropoffClosedError, {}),
        (errors.MaxSizeExceededError, {"max_upload_bytes": 0}),
        (errors.TypeNotAllowedError, {"allowed_types": ()}),
        (errors.DropoffFullError, {"max_uploads": 0}),
        (errors.QuotaError, {"max_total_bytes": 0}),
    ]
    for error, change in steps:
        with pytest.raises(error):
            _admit(dropoff, usage, space=full)
        dropoff = changed(replace(dropoff, closed=False), **change)
    with pytest.raises(errors.StorageFullError):
        _admit(dropoff, usage, space=full)


# ---- reservations ahead ----------------------------------------------------------------------------------------


def _next(
    dropoff: Dropoff = DROP,
    usage: Usage = NOTHING,
    *,
    present: int = 0,
    stored: int | None = None,
    needed: int = 1,
    ahead: int = 99,
    server_max_bytes: int = 0,
    space: policy.Space = ROOMY,
) -> int:
    return policy.next_reservation(
        dropoff,
        usage,
        present_bytes=present,
        stored_bytes=present if stored is None else stored,
        needed_bytes=needed,
        ahead_bytes=ahead,
        server_max_bytes=server_max_bytes,
        space=space,
    )


def test_next_reservation_without_limits_takes_the_whole_step() -> None:
    """Room is plenty."""
    assert _next() == 100


@pytest.mark.parametrize(
    "dropoff",
    [_limited(max_upload_bytes=60), _limited(max_total_bytes=70)],
    ids=["size", "quota"],
)
def test_next_reservation_takes_what_is_left_of_the_limit(dropoff: Dropoff) -> None:
    """The last step before a limit is a smaller one."""
    assert _next(dropoff, Usage(1, 10), present=50, needed=51) == 60


def test_next_reservation_takes_what_is_left_of_the_disk() -> None:
    """Bytes of the upload on the disk need no space again; those that it has only reserved do."""
    space = policy.Space(40, {"other": 10})
    assert _next(present=50, stored=50, needed=51, space=space) == 80
    assert _next(present=50, stored=20, needed=51, space=policy.Space(40)) == 60


@pytest.mark.parametrize(
    ("dropoff", "space", "error"),
    [
        (_limited(max_upload_bytes=50), ROOMY, errors.MaxSizeExceededError),
        (_limited(max_total_bytes=50), ROOMY, errors.QuotaError),
        (DROP, policy.Space(0), errors.StorageFullError),
    ],
    ids=["size", "quota", "disk"],
)
def test_next_reservation_without_room_for_what_is_needed_is_refused(
    dropoff: Dropoff, space: policy.Space, error: type[errors.DropoffError]
) -> None:
    """One byte too many is too many."""
    with pytest.raises(error):
        _next(dropoff, present=50, needed=51, space=space)


def test_next_reservation_of_less_than_present_is_granted_in_any_case() -> None:
    """To settle a deferred length below what was reserved ahead gives room back; nothing can be in its way."""
    full = replace(_limited(max_total_bytes=1), closed=True)
    assert _next(full, Usage(1, 100), present=50, needed=30, ahead=0, space=policy.Space(-10)) == 30
