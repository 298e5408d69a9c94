"""Details that break real clients: requests of odd but honest clients, and the answers they need."""

import base64
import random
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest

from tests.e2e.answers import assert_head, assert_refused
from tests.support.server_process import Drop, ServerProcess, token_of
from tests.support.tus_raw import OCTETS, TUS, TusSite, chunked, metadata

# ---- Upload-Metadata -----------------------------------------------------------------------------


def _pairs(value: str) -> list[tuple[str, bytes]]:
    pairs = (pair.strip().partition(" ") for pair in value.split(","))
    return [(key, base64.b64decode(encoded)) for key, _, encoded in pairs]


@pytest.mark.parametrize(
    ("sent", "pairs"),
    [
        ("a MQ==,b Mg==", [("a", b"1"), ("b", b"2")]),
        ("b Mg==,a MQ==", [("b", b"2"), ("a", b"1")]),
        ("a MQ== , b Mg==", [("a", b"1"), ("b", b"2")]),
        ("flag,a MQ==", [("flag", b""), ("a", b"1")]),
        ("flag ,a MQ==", [("flag", b""), ("a", b"1")]),
        ("a MQ==,flag ", [("a", b"1"), ("flag", b"")]),
        (metadata(filename="\r\nSet-Cookie: x=1"), [("filename", b"\r\nSet-Cookie: x=1")]),
        (metadata(filename=bytes(range(256))), [("filename", bytes(range(256)))]),
        (metadata(filename="試験 🧪"), [("filename", "試験 🧪".encode())]),
    ],
    ids=[
        "order",
        "other-order",
        "spaces",
        "flag",
        "flag-space",
        "flag-last",
        "line-break",
        "binary",
        "unicode",
    ],
)
def test_metadata_comes_back_in_the_order_sent(site: TusSite, sent: str, pairs: list[tuple[str, bytes]]) -> None:
    """HEAD returns the same pairs in the same order, whatever is in the values."""
    answer = assert_head(site.head(site.create(5, {"Upload-Metadata": sent})), 200)
    assert _pairs(answer.needed("Upload-Metadata")) == pairs
    assert answer.header("Set-Cookie") is None


def test_metadata_empty_header_is_as_if_absent(site: TusSite) -> None:
    """Some clients always send the header, also when there is nothing in it."""
    assert site.head(site.create(5, {"Upload-Metadata": ""})).header("Upload-Metadata") is None


@pytest.mark.parametrize(
    "value",
    ["a !!!", "a MQ", "a MQ==,a Mg==", "a MQ==,,b Mg==", "a MQ== Mg==", "ä MQ==", "a M\tQ==", ","],
    ids=["alphabet", "padding", "twice", "hole", "three-words", "key", "tab", "comma"],
)
def test_metadata_malformed_answers_400(site: TusSite, value: str) -> None:
    """Malformed values are refused, not guessed at."""
    assert site.post({"Upload-Length": "5", "Upload-Metadata": value}).status == 400


def test_metadata_never_returns_the_code(site: TusSite) -> None:
    """The code leaves the metadata, under its own key in any case and wherever else it stands."""
    code = site.code or ""
    sent = metadata(filename="a", CODE=code, note=code, last="z")
    url = site.create(5, {"Upload-Metadata": sent, "Dropoff-Code": None})
    returned = site.head(url).needed("Upload-Metadata")
    assert [key for key, _ in _pairs(returned)][:1] == ["filename"]
    assert base64.b64encode(code.encode()).decode() not in returned
    assert "CODE" not in returned


def test_metadata_of_15_kib_is_kept(site: TusSite) -> None:
    """Nearly the largest metadata come back whole, in a header beyond what aiohttp takes by default."""
    value = random.randbytes(11_000)
    answer = site.head(site.create(5, {"Upload-Metadata": metadata(note=value)}))
    assert _pairs(answer.needed("Upload-Metadata")) == [("note", value)]


@pytest.mark.parametrize(("size", "status"), [(18_000, 431), (40_000, 400)])
def test_metadata_too_large_is_refused(site: TusSite, size: int, status: int) -> None:
    """Between our limit and the parser's the answer is 431, beyond it 400; never a traceback."""
    answer = site.post({"Upload-Length": "5", "Upload-Metadata": metadata(note=random.randbytes(size))})
    assert answer.status == status
    assert b"Traceback" not in answer.body
    assert len(answer.body) < 300


# ---- deferred length -----------------------------------------------------------------------------


def _deferred(site: TusSite) -> str:
    return site.post({"Upload-Defer-Length": "1"}).needed("Location")


def test_deferred_length_shows_until_it_is_declared(site: TusSite) -> None:
    """HEAD says that the length is deferred, and afterwards what it is."""
    url = _deferred(site)
    before = site.head(url)
    assert (before.header("Upload-Defer-Length"), before.header("Upload-Length")) == ("1", None)
    assert site.patch(url, 0, b"hel", {"Upload-Length": "5"}).status == 204
    after = site.head(url)
    assert (after.header("Upload-Defer-Length"), after.header("Upload-Length")) == (None, "5")


@pytest.mark.parametrize("content", [b"hello", b""], ids=["five-bytes", "nothing"])
def test_deferred_length_declared_by_empty_patch_completes(
    limited: ServerProcess, limited_drop: Drop, site: TusSite, content: bytes
) -> None:
    """A client that notices the end late declares the length without sending anything more."""
    url = _deferred(site)
    if content:
        assert site.patch(url, 0, content).status == 204
    assert site.patch(url, len(content), b"", {"Upload-Length": str(len(content))}).status == 204
    assert limited.row(url, limited_drop)["state"] == "complete"
    assert limited.export(url) == content


def test_deferred_length_declared_again_is_fixed(site: TusSite) -> None:
    """The same length may be repeated, another one is refused and changes nothing."""
    url = _deferred(site)
    assert site.patch(url, 0, b"h", {"Upload-Length": "5"}).status == 204
    assert site.patch(url, 1, b"e", {"Upload-Length": "5"}).status == 204
    assert_refused(site.patch(url, 2, b"l", {"Upload-Length": "6"}), 400)
    answer = site.head(url)
    assert (answer.offset, answer.needed("Upload-Length")) == (2, "5")


def test_deferred_length_below_what_is_here_is_refused(site: TusSite) -> None:
    """A length smaller than the offset cannot be."""
    url = _deferred(site)
    assert site.patch(url, 0, b"hello").status == 204
    assert site.patch(url, 5, b"", {"Upload-Length": "4"}).status in {400, 413}
    assert site.head(url).header("Upload-Length") is None


def test_deferred_length_with_creation_data_is_kept(limited: ServerProcess, site: TusSite) -> None:
    """A creation may bring data before anyone knows how much there will be."""
    created = site.post({"Upload-Defer-Length": "1", "Content-Type": OCTETS}, b"hel")
    assert (created.status, created.offset) == (201, 3)
    url = created.needed("Location")
    assert site.patch(url, 3, b"lo", {"Upload-Length": "5"}).status == 204
    assert limited.export(url) == b"hello"


# ---- X-HTTP-Method-Override ----------------------------------------------------------------------


@pytest.mark.parametrize("written", ["PATCH", "patch", "Patch"])
def test_method_override_patch_on_post_is_resolved(site: TusSite, written: str) -> None:
    """A POST that says PATCH is one, in any case."""
    url = site.create(5)
    answer = site.request("POST", url, site.patch_headers(0, {"X-HTTP-Method-Override": written}), b"hello")
    assert (answer.status, answer.offset) == (204, 5)


def test_method_override_delete_and_head_on_post_are_resolved(site: TusSite) -> None:
    """A POST may say DELETE and HEAD too."""
    url = site.create(5)
    head = site.request("POST", url, {"Tus-Resumable": TUS, "X-HTTP-Method-Override": "HEAD"})
    assert (head.status, head.offset, head.body) == (200, 0, b"")
    gone = site.request("POST", url, {"Tus-Resumable": TUS, "X-HTTP-Method-Override": "DELETE"})
    assert gone.status == 204
    assert_head(site.head(url), 410)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "OPTIONS", "BREW", ""])
def test_method_override_of_any_other_answers_405(site: TusSite, method: str) -> None:
    """Only the three methods that proxies are known to block can be had this way."""
    url = site.create(5)
    assert_refused(site.request("POST", url, {"Tus-Resumable": TUS, "X-HTTP-Method-Override": method}), 405)


def test_method_override_on_drop_off_answers_405(site: TusSite) -> None:
    """A drop-off has nothing to patch; a creation in disguise makes no upload."""
    answer = site.post({"Upload-Length": "5", "X-HTTP-Method-Override": "PATCH"})
    assert_refused(answer, 405)
    assert answer.header("Location") is None


# ---- Upload-Concat -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["absolute", "relative", "slashes", "spaces", "other-host", "token-path"])
def test_concat_urls_of_any_form_are_matched(limited: ServerProcess, site: TusSite, form: str) -> None:
    """Parts may be named by absolute or relative URLs, with trailing slashes and extra spaces."""
    parts = [site.upload(content, {"Upload-Concat": "partial"}) for content in (b"one", b"two")]
    below_host = [f"/{part.partition('://')[2].partition('/')[2]}" for part in parts]
    value = {
        "absolute": "final;" + " ".join(parts),
        "relative": "final;" + " ".join(below_host),
        "slashes": "final;" + " ".join(f"{part}/" for part in parts),
        "spaces": "final; " + "   ".join(parts) + " ",
        "other-host": "final;" + " ".join(f"https://public.example{path}" for path in below_host),
        "token-path": "final;" + " ".join(f"/prefix{path}" for path in below_host),
    }[form]
    answer = site.post({"Upload-Concat": value})
    assert answer.status == 201, answer.body
    assert limited.export(answer.needed("Location")) == b"onetwo"


def test_concat_of_200_parts_fits_in_the_header(site: TusSite) -> None:
    """Two hundred absolute URLs are read (and not found) rather than too long."""
    parts = " ".join(site.upload_url + random.randbytes(16).hex() for _ in range(200))
    assert_refused(site.post({"Upload-Concat": f"final;{parts}"}), 404)


def test_concat_parts_are_listed_only_when_asked(limited: ServerProcess, limited_drop: Drop, site: TusSite) -> None:
    """Operators see finals; the parts come with `--all`. HEAD tells clients which is which."""
    part = site.upload(b"hello", {"Upload-Concat": "partial"})
    final = site.post({"Upload-Concat": f"final;{part}"}).needed("Location")
    shown = {row["id"] for row in limited.uploads(limited_drop)}
    everything = {row["id"] for row in limited.uploads(limited_drop, partials=True)}
    assert limited.row(final, limited_drop)["id"] in shown
    assert limited.row(part, limited_drop, partials=True)["id"] in everything - shown
    assert site.head(part).needed("Upload-Concat") == "partial"
    assert site.head(final).needed("Upload-Concat").startswith("final;")


# ---- Upload-Expires, Location, discovery ---------------------------------------------------------


def test_upload_expires_slides_and_is_absent_once_complete(site: TusSite) -> None:
    """While unfinished every answer says until when; a finished upload does not expire."""
    created = site.post({"Upload-Length": "5"})
    url = created.needed("Location")
    patched = site.patch(url, 0, b"hel")
    first, second = (parsedate_to_datetime(answer.needed("Upload-Expires")) for answer in (created, patched))
    assert second >= first
    # seven days is the default
    assert 6.9 < (second - datetime.now(UTC)).total_seconds() / 86400 < 7.1
    assert site.head(url).header("Upload-Expires") is not None
    assert site.patch(url, 3, b"lo").header("Upload-Expires") is None
    assert site.head(url).header("Upload-Expires") is None


def test_location_ends_in_a_token_and_the_id_is_derived(site: TusSite) -> None:
    """Location is an absolute URL below the drop-off, and Dropoff-Upload-Id is not the token."""
    created = site.post({"Upload-Length": "5"})
    url, upload_id = created.needed("Location"), created.needed("Dropoff-Upload-Id")
    assert url.startswith(site.upload_url)
    assert re.fullmatch(r"[0-9a-f]{32}", token_of(url))
    assert re.fullmatch(r"[0-9a-f]{32}", upload_id)
    assert upload_id != token_of(url)


def test_drop_off_path_with_and_without_slash_is_the_same(site: TusSite) -> None:
    """Neither form redirects, which would lose a POST's body."""
    bare = site.upload_url.rstrip("/")
    assert site.request("POST", bare, site.post_headers({"Upload-Length": "5"})).status == 201
    assert site.request("POST", f"{bare}/", site.post_headers({"Upload-Length": "5"})).status == 201


@pytest.mark.parametrize("path", ["", "x", "0" * 32])
def test_options_answers_204_for_any_id(site: TusSite, limited_drop: Drop, path: str) -> None:
    """Discovery tells nobody which drop-offs and uploads there are."""
    known = site.request("OPTIONS", site.upload_url + path, {})
    unknown = site.request("OPTIONS", site.upload_url.replace(limited_drop.id, "unknown") + path, {})
    for answer in (known, unknown):
        assert answer.status == 204
        assert answer.needed("Tus-Version") == TUS
        assert answer.needed("Tus-Max-Size") == "50000000"
        assert answer.needed("Tus-Resumable") == TUS
    assert "checksum-trailer" not in known.needed("Tus-Extension").split(",")


def test_cors_is_off_unless_origins_are_listed(site: TusSite) -> None:
    """Without the setting no answer mentions origins."""
    preflight = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for answer in (
        site.request("OPTIONS", site.upload_url, preflight),
        site.post({"Upload-Length": "5", "Origin": "https://evil.example"}),
    ):
        assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]


def test_receipt_is_where_the_last_answer_says(site: TusSite) -> None:
    """The answer that completes an upload names its receipt, which whoever has the URL can read, and nobody else."""
    url = site.create(5)
    receipt = site.patch(url, 0, b"hello").needed("Dropoff-Receipt")
    assert receipt == f"{url}/receipt"
    answer = site.request("GET", receipt, {})
    assert (answer.status, answer.needed("Cache-Control")) == (200, "no-store")
    assert answer.body
    assert_refused(site.request("GET", f"{site.upload_url}{'0' * 32}/receipt", {}), 404)
    assert_refused(site.request("GET", f"{site.create(5)}/receipt", {}), 404)
    assert assert_refused(site.request("POST", receipt, {"Tus-Resumable": TUS}), 405).needed("Allow") == "GET"


def test_every_answer_below_files_says_which_tus_it_is(site: TusSite) -> None:
    """On any request: the version, and that the type is not to be guessed; never the name of our software."""
    url = site.upload(b"hello")
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"):
        for path in ("", "x", "0" * 32, url.rpartition("/")[2], f"{url.rpartition('/')[2]}/receipt", "a/b/c/d"):
            answer = site.request(method, site.upload_url + path, {})
            assert answer.needed("Tus-Resumable") == TUS
            assert answer.needed("X-Content-Type-Options") == "nosniff"
            assert answer.needed("Server") == "dropoff-tus"


# ---- HTTP itself ---------------------------------------------------------------------------------


def test_coded_transfer_answers_400(site: TusSite) -> None:
    """`Transfer-Encoding: gzip, chunked` would change the bytes on the way."""
    url = site.create(5)
    headers = {"Transfer-Encoding": "gzip, chunked"}
    assert site.patch(url, 0, chunked(b"hello"), headers).status == 400
    assert site.head(url).offset == 0


def test_chunked_body_in_many_pieces_arrives_whole(limited: ServerProcess, site: TusSite) -> None:
    """Pieces of any size make one body."""
    content = random.randbytes(300_000)
    pieces = [content[start : start + 7_919] for start in range(0, len(content), 7_919)]
    url = site.create(len(content))
    assert site.patch(url, 0, chunked(*pieces), {"Transfer-Encoding": "chunked"}).status == 204
    assert limited.export(url) == content


def test_body_that_trickles_in_is_one_patch(limited: ServerProcess, site: TusSite) -> None:
    """A slow but steady client is served."""
    url = site.create(5)
    with site.connect() as connection:
        message = site.message("PATCH", url, site.patch_headers(0), b"hello")
        connection.send(message[:-5])
        connection.send_slowly(b"hello", piece_bytes=1, pause_seconds=0.1)
        assert connection.read_response().status == 204
    assert limited.export(url) == b"hello"


@pytest.mark.parametrize("form", ["content-length", "chunked"])
@pytest.mark.parametrize(
    "sent_bytes",
    [3, 2_500_000],
    ids=["few", "many"],
)
def test_half_body_is_kept_when_the_client_goes_away(
    limited: ServerProcess, site: TusSite, form: str, sent_bytes: int
) -> None:
    """Bytes before the cut count, and the upload goes on from there."""
    content = random.randbytes(sent_bytes + 100)
    url = site.create(len(content))
    extra = {"Transfer-Encoding": "chunked"} if form == "chunked" else {"Content-Length": str(len(content))}
    body = content[:sent_bytes]
    with site.connect() as connection:
        connection.send(site.message("PATCH", url, site.patch_headers(0, {**extra, "Expect": "100-continue"})))
        connection.wait_for_continue()
        connection.send(chunked(body, end=False) if form == "chunked" else body)
        connection.half_close()
        connection.is_closed_within(5)
    assert site.head(url).offset == sent_bytes
    assert site.patch(url, sent_bytes, content[sent_bytes:]).status == 204
    assert limited.export(url) == content


@pytest.mark.parametrize("form", ["content-length", "chunked"])
def test_body_cut_at_any_byte_keeps_what_arrived(site: TusSite, form: str) -> None:
    """Wherever a small body is cut, its bytes count, if the server had begun with the request."""
    whole = chunked(b"hel", b"lo") if form == "chunked" else b"hello"
    # in the chunked form bytes 3 to 5 and 11 to 12 are content, the others frame it
    content = (3, 4, 5, 11, 12) if form == "chunked" else (0, 1, 2, 3, 4)
    extra = {"Transfer-Encoding": "chunked"} if form == "chunked" else {"Content-Length": "5"}
    for count in range(len(whole)):
        url = site.create(6)
        with site.connect() as connection:
            connection.send(site.message("PATCH", url, site.patch_headers(0, {**extra, "Expect": "100-continue"})))
            connection.wait_for_continue()
            connection.send(whole[:count])
            connection.half_close()
            assert connection.is_closed_within(5)
        assert site.head(url).offset == sum(place < count for place in content), count


@pytest.mark.parametrize("size", [1, 2_000_000], ids=["small", "large"])
def test_pipelined_requests_are_answered_in_order(limited: ServerProcess, site: TusSite, size: int) -> None:
    """Requests sent without waiting are each read to their own end, and no byte of one goes into another."""
    content = random.randbytes(2 * size)
    url = site.create(len(content))
    with site.connect() as connection:
        connection.send(
            site.message("PATCH", url, site.patch_headers(0), content[:size])
            + site.message("PATCH", url, site.patch_headers(size), content[size:])
            + site.message("HEAD", url, {"Tus-Resumable": TUS})
        )
        first = connection.read_response()
        assert (first.status, first.offset) == (204, size)
        if first.header("Connection") != "close":
            second = connection.read_response()
            assert (second.status, second.offset) == (204, 2 * size)
            if second.header("Connection") != "close":
                assert connection.read_response(to_head=True).offset == 2 * size
    offset = site.head(url).offset
    assert offset in {size, 2 * size}
    if offset == size:
        assert site.patch(url, size, content[size:]).status == 204
    assert limited.export(url) == content


def test_many_requests_on_one_connection_are_served(limited: ServerProcess, site: TusSite) -> None:
    """Keep-alive works through creation, PATCH and HEAD."""
    with site.connect() as connection:
        connection.send(site.message("POST", site.upload_url, site.post_headers({"Upload-Length": "5"})))
        url = connection.read_response().needed("Location")
        for offset in range(5):
            message = site.message("PATCH", url, site.patch_headers(offset), b"hello"[offset : offset + 1])
            connection.send(message)
            assert connection.read_response().offset == offset + 1
        connection.send(site.message("HEAD", url, {}))
        assert connection.read_response(to_head=True).offset == 5
    assert limited.export(url) == b"hello"
