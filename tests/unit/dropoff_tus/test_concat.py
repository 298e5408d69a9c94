"""Tests of Upload-Concat."""

import pytest

from dropoff_tus import concat
from dropoff_tus.errors import InvalidConcatError, PartNotFoundError
from dropoff_tus.ids import UploadToken
from dropoff_tus.model import Role

DROP = "3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a"
OTHER_DROP = "4f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a"
ONE, TWO = "1" * 32, "2" * 32


def test_concat_absent_is_a_regular_upload() -> None:
    """Without the header nothing is concatenated."""
    assert concat.parse(None, DROP) == (Role.REGULAR, ())


def test_concat_partial_has_no_parts() -> None:
    """A partial names none."""
    assert concat.parse("partial", DROP) == (Role.PARTIAL, ())


@pytest.mark.parametrize(
    "value",
    [
        f"final;/files/{DROP}/{ONE} /files/{DROP}/{TWO}",
        f"final;https://a.example/sub/files/{DROP}/{ONE} http://b.example:80/files/{DROP}/{TWO}",
        f"final; /files/{DROP}/{ONE}/   /files/{DROP}/{TWO}// ",
        f"final;{DROP}/{ONE} ../{DROP}/{TWO}",
        f"final;/files/{DROP.replace('-', '%2D')}/{ONE} /files/{DROP}/{TWO}?a=b#c",
    ],
    ids=["relative", "absolute", "spaces-slashes", "short", "escaped-query"],
)
def test_concat_final_finds_the_tokens_in_order(value: str) -> None:
    """URLs of any form are matched on their last two path segments."""
    assert concat.parse(value, DROP) == (Role.FINAL, (UploadToken(ONE), UploadToken(TWO)))


@pytest.mark.parametrize("value", ["", "final", "final;", "final; ", "partial;", "Partial", "whole", "final,x"])
def test_concat_malformed_is_refused(value: str) -> None:
    """A value of neither form makes no upload."""
    with pytest.raises(InvalidConcatError):
        concat.parse(value, DROP)


@pytest.mark.parametrize(
    "url",
    [f"/files/{OTHER_DROP}/{ONE}", f"/files/{DROP}", ONE, f"/files/{DROP}/x", f"/{DROP}/{ONE}/receipt", "http://[x"],
    ids=["other-drop-off", "no-token", "token-alone", "no-hex", "below", "no-url"],
)
def test_concat_of_what_is_no_upload_here_is_not_found(url: str) -> None:
    """Parts are looked for only in this drop-off."""
    with pytest.raises(PartNotFoundError):
        concat.parse(f"final;/files/{DROP}/{TWO} {url}", DROP)


def test_concat_of_one_part_twice_is_refused_however_it_is_written() -> None:
    """Two URLs of one upload are one part."""
    with pytest.raises(InvalidConcatError):
        concat.parse(f"final;/files/{DROP}/{ONE} https://a.example/files/{DROP}/{ONE}/", DROP)


def test_concat_of_200_parts_is_read_and_of_201_refused() -> None:
    """The number of parts is bounded."""
    urls = [f"/files/{DROP}/{number:032x}" for number in range(concat.MAX_PARTS + 1)]
    assert len(concat.parse("final;" + " ".join(urls[:-1]), DROP)[1]) == concat.MAX_PARTS
    with pytest.raises(InvalidConcatError):
        concat.parse("final;" + " ".join(urls), DROP)


def test_concat_rendered_shows_role_and_ids() -> None:
    """HEAD tells what an upload is, without giving out the tokens of its parts."""
    assert concat.render(Role.REGULAR, ()) is None
    assert concat.render(Role.PARTIAL, ()) == "partial"
    assert concat.render(Role.FINAL, ("a", "b")) == "final;a b"
