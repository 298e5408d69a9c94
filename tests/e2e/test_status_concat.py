"""The rows of the table of status codes on concatenation, over a bare socket."""

import random

import pytest

from tests.e2e.answers import assert_refused
from tests.e2e.conftest import DROP_LIMIT_BYTES
from tests.support.server_process import Drop, ServerProcess, token_of
from tests.support.tus_raw import OCTETS, TusSite


def _partial(site: TusSite, content: bytes) -> str:
    return site.upload(content, {"Upload-Concat": "partial"})


def _final(*parts: str, **extra: str) -> dict[str, str]:
    return {"Upload-Concat": "final;" + " ".join(parts), **extra}


def _unknown_upload(site: TusSite) -> str:
    return site.upload_url + random.randbytes(16).hex()


# ---- concatenation -------------------------------------------------------------------------------


def test_concat_of_unfinished_part_answers_400(site: TusSite) -> None:
    """A part that lacks bytes cannot be used."""
    part = site.create(5, {"Upload-Concat": "partial"})
    assert_refused(site.post(_final(part)), 400)


def test_concat_of_upload_that_is_no_part_answers_400(site: TusSite) -> None:
    """Neither a plain upload nor a final can be a part."""
    plain = site.upload(b"hello")
    assert_refused(site.post(_final(plain)), 400)
    final = site.post(_final(_partial(site, b"hello"))).needed("Location")
    assert_refused(site.post(_final(final)), 400)


def test_concat_of_part_named_twice_answers_400(site: TusSite) -> None:
    """One part fills one place."""
    part = _partial(site, b"hello")
    assert_refused(site.post(_final(part, part)), 400)


@pytest.mark.parametrize("value", ["final", "final;", "final; ", "partial;", "whole", "final;x y"])
def test_concat_malformed_answers_400_or_404(site: TusSite, value: str) -> None:
    """A value that is no list of uploads makes no upload."""
    answer = site.post({"Upload-Concat": value, "Upload-Length": "5"})
    assert answer.status in ({400, 404} if value == "final;x y" else {400})
    assert answer.header("Location") is None


def test_concat_of_missing_part_answers_404(site: TusSite) -> None:
    """A part that nobody has is not found."""
    assert_refused(site.post(_final(_partial(site, b"hello"), _unknown_upload(site))), 404)


def test_concat_of_part_of_another_drop_off_answers_404(site: TusSite, other_site: TusSite) -> None:
    """Parts are looked for only in this drop-off, whatever their URL says."""
    part = _partial(other_site, b"hello")
    assert_refused(site.post(_final(part)), 404)
    assert_refused(site.post(_final(site.upload_url + token_of(part))), 404)


def test_concat_of_part_in_another_final_answers_409(limited: ServerProcess, site: TusSite) -> None:
    """A part belongs to the first final that took it."""
    one, two = _partial(site, b"one"), _partial(site, b"two")
    final = site.post(_final(one, two)).needed("Location")
    assert_refused(site.post(_final(one)), 409, "ERR_PART_IN_USE")
    assert_refused(site.post(_final(two, one)), 409, "ERR_PART_IN_USE")
    assert limited.export(final) == b"onetwo"


def test_concat_of_same_parts_again_answers_201_with_same_location(
    limited: ServerProcess, limited_drop: Drop, site: TusSite
) -> None:
    """A client that missed the answer repeats and finds the same upload, not a second one."""
    headers = _final(_partial(site, b"one"), _partial(site, b"two"))
    before = len(limited.uploads(limited_drop))
    first, second = site.post(headers), site.post(headers)
    assert (first.status, second.status) == (201, 201)
    assert first.needed("Location") == second.needed("Location")
    assert len(limited.uploads(limited_drop)) == before + 1


def test_concat_sum_above_limit_answers_413(other_site: TusSite) -> None:
    """Parts that are each small enough may be too much together."""
    parts = [_partial(other_site, bytes(DROP_LIMIT_BYTES // 2 + 1)) for _ in range(2)]
    assert_refused(other_site.post(_final(*parts)), 413)


def test_concat_body_on_final_answers_403(site: TusSite) -> None:
    """A final consists of its parts and brings nothing of its own."""
    headers = _final(_partial(site, b"hello"), **{"Content-Type": OCTETS})
    assert_refused(site.post(headers, b"more"), 403)


def test_concat_upload_length_on_final_is_ignored(site: TusSite) -> None:
    """The parts say how long a final is, also if the client sends another length."""
    answer = site.post(_final(_partial(site, b"hello"), **{"Upload-Length": "999"}))
    assert answer.status == 201
    assert site.head(answer.needed("Location")).needed("Upload-Length") == "5"
