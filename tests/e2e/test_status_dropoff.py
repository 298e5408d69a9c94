"""The rows of the table of status codes on codes, drop-offs and digests, over a bare socket."""

import hashlib
import time

import pytest

from tests.e2e.answers import assert_head, assert_refused
from tests.support.server_process import Drop, ServerProcess
from tests.support.tus_raw import OCTETS, TusSite, metadata

# ---- code, drop-off ------------------------------------------------------------------------------

_UNKNOWN_DROP = "3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a"


def test_unknown_drop_off_wrong_and_missing_code_answer_one_403(site: TusSite, limited_drop: Drop) -> None:
    """Nobody can tell a drop-off that does not exist from one whose code he does not know."""
    unknown = site.upload_url.replace(limited_drop.id, _UNKNOWN_DROP)
    length = {"Upload-Length": "5"}
    answers = [
        site.post({**length, "Dropoff-Code": None}),
        site.post({**length, "Dropoff-Code": "0000-0000-0000-0000"}),
        site.post({**length, "Dropoff-Code": ""}),
        site.post({**length, "Dropoff-Code": None, "Upload-Metadata": metadata(code="wrong")}),
        site.request("POST", unknown, site.post_headers(length)),
        site.request("POST", unknown, site.post_headers({**length, "Dropoff-Code": None})),
        site.request("POST", site.upload_url.replace(limited_drop.id, "no-uuid"), site.post_headers(length)),
    ]
    for answer in answers:
        assert_refused(answer, 403, "ERR_ACCESS_DENIED")
        assert answer.body == answers[0].body
        assert _names(answer.headers) == _names(answers[0].headers)


def _names(headers: tuple[tuple[str, str], ...]) -> list[str]:
    return sorted(name.lower() for name, _ in headers if name.lower() not in {"x-request-id", "connection"})


def test_wrong_code_answers_403_before_the_body_is_read(site: TusSite) -> None:
    """A stranger's body is not waited for."""
    headers = site.post_headers(
        {
            "Dropoff-Code": "wrong",
            "Upload-Length": "5000000",
            "Content-Type": OCTETS,
            "Content-Length": "5000000",
        }
    )
    with site.connect(timeout_seconds=5) as connection:
        connection.send(site.message("POST", site.upload_url, headers))
        assert_refused(connection.read_response(), 403, "ERR_ACCESS_DENIED")


@pytest.mark.parametrize("form", ["lower", "no-dashes", "spaces", "letters"])
def test_right_code_as_people_type_it_answers_201(site: TusSite, form: str) -> None:
    """Case, dashes, spaces, and O for 0 or I for 1, do not matter."""
    code = site.code or ""
    typed = {
        "lower": code.lower(),
        "no-dashes": code.replace("-", ""),
        "spaces": code.replace("-", " "),
        "letters": code.replace("0", "O").replace("1", "I"),
    }[form]
    assert site.post({"Upload-Length": "5", "Dropoff-Code": typed}).status == 201


def test_closed_drop_off_answers_403_and_open_uploads_go_on(limited: ServerProcess) -> None:
    """Closing stops new uploads; running ones may finish; reopening lets new ones in again."""
    drop = limited.create_drop(name="closing")
    url = drop.site.create(5)
    limited.cli("drop", "close", drop.id)
    assert_refused(drop.site.post({"Upload-Length": "5"}), 403, "ERR_DROPOFF_CLOSED")
    assert drop.site.patch(url, 0, b"hello").status == 204
    limited.cli("drop", "reopen", drop.id)
    assert drop.site.post({"Upload-Length": "5"}).status == 201


def test_closed_drop_off_with_wrong_code_answers_the_one_403(limited: ServerProcess) -> None:
    """Only who knows the code learns that the drop-off is closed."""
    drop = limited.create_drop(name="closed")
    limited.cli("drop", "close", drop.id)
    answer = drop.site.post({"Upload-Length": "5", "Dropoff-Code": "wrong"})
    assert_refused(answer, 403, "ERR_ACCESS_DENIED")


def test_expired_drop_off_answers_403(limited: ServerProcess) -> None:
    """After its window a drop-off takes nothing new."""
    drop = limited.create_drop("--expires", "1s", name="expiring")
    time.sleep(1.2)
    assert_refused(drop.site.post({"Upload-Length": "5"}), 403, "ERR_DROPOFF_EXPIRED")


def test_full_drop_off_answers_403_and_partials_do_not_count(limited: ServerProcess) -> None:
    """Beyond its number of uploads a drop-off takes none; the parts of one upload are not uploads."""
    drop = limited.create_drop("--max-uploads", "1", name="one upload")
    parts = [drop.site.upload(content, {"Upload-Concat": "partial"}) for content in (b"one", b"two")]
    assert drop.site.post({"Upload-Concat": "final;" + " ".join(parts)}).status == 201
    assert_refused(drop.site.post({"Upload-Length": "5"}), 403, "ERR_DROPOFF_FULL")


def test_drop_off_bytes_used_up_answers_413(limited: ServerProcess) -> None:
    """Declared lengths are reserved, and given back when an upload is terminated."""
    drop = limited.create_drop("--max-total-bytes", "1000", name="thousand bytes")
    url = drop.site.create(900)
    assert_refused(drop.site.post({"Upload-Length": "101"}), 413, "ERR_QUOTA")
    assert drop.site.post({"Upload-Length": "100"}).status == 201
    assert drop.site.delete(url).status == 204
    assert drop.site.post({"Upload-Length": "900"}).status == 201


def test_drop_off_without_code_takes_uploads_without_one(limited: ServerProcess) -> None:
    """A drop-off made without a code is open to who knows its address."""
    drop = limited.create_drop("--no-code", name="open to all")
    assert drop.code is None
    url = drop.site.upload(b"hello", {"Dropoff-Code": None})
    assert limited.export(url) == b"hello"


# ---- digests in the metadata ---------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "md5"])
def test_digest_in_metadata_that_matches_completes(
    limited: ServerProcess, limited_drop: Drop, site: TusSite, algorithm: str
) -> None:
    """A client that gives the digest of its file has it checked."""
    digest = hashlib.new(algorithm, b"hello").hexdigest()
    url = site.upload(b"hello", {"Upload-Metadata": metadata(**{algorithm: digest})})
    assert limited.row(url, limited_drop)["state"] == "complete"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "md5"])
def test_digest_in_metadata_that_does_not_match_answers_422_then_410(
    limited: ServerProcess, limited_drop: Drop, site: TusSite, algorithm: str
) -> None:
    """A file that is not what the client meant to send is never called success."""
    digest = hashlib.new(algorithm, b"hello").hexdigest()
    url = site.create(5, {"Upload-Metadata": metadata(**{algorithm: digest})})
    assert_refused(site.patch(url, 0, b"jello"), 422, "ERR_DIGEST_MISMATCH")
    assert_head(site.head(url), 410)
    assert_refused(site.patch(url, 5, b""), 410)
    assert limited.row(url, limited_drop)["state"] == "rejected"


@pytest.mark.parametrize("digest", ["", "zz", "00" * 31, "00" * 33, "g" * 64])
def test_digest_in_metadata_malformed_answers_400(site: TusSite, digest: str) -> None:
    """A digest that could never match is refused before any byte is sent."""
    assert_refused(site.post({"Upload-Length": "5", "Upload-Metadata": metadata(sha256=digest)}), 400)
