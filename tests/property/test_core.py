"""Properties of the pure core: the grammar never fails in an unknown way, policy never promises too much."""

import base64
import re
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from dropoff_tus import concat, headers, ids, policy, wire
from dropoff_tus.errors import DropoffError, InvalidUploadLengthError
from dropoff_tus.model import Dropoff, DropTerms, Metadata, Role, Usage

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
DROP_ID = "3f0c5f4a-8d1c-4c44-9a37-0f5f3f0c5f4a"

_keys = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1)
_pairs = st.lists(st.tuples(_keys, st.binary(max_size=40)), max_size=8, unique_by=lambda pair: pair[0])
_latin = st.text(st.characters(max_codepoint=0xFF))
_numbers = st.one_of(
    st.integers(0, 2**64).map(str),
    st.text(st.sampled_from("0123456789+-_ .e٣५"), max_size=25),
    st.text(max_size=8),
)
_known_names = st.sampled_from(
    [
        *("Upload-Length", "Upload-Offset", "Upload-Defer-Length", "Upload-Metadata", "Upload-Checksum"),
        *("Upload-Concat", "Content-Length", "Content-Type", "Transfer-Encoding", "Tus-Resumable"),
        *("X-HTTP-Method-Override", "Dropoff-Code", "upload-length", "upload-metadata"),
    ]
)
_likely = st.sampled_from(
    [
        *("1", "0", "5", "chunked", "partial", "final;", f"final;/{DROP_ID}/{'0' * 32}", "a MQ==,b", "1.0.0"),
        *("code MQ==", "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=", "application/offset+octet-stream", "PATCH"),
        *("md5 MQ==", "filename ,code"),
    ]
)
_headers = st.lists(st.tuples(_known_names, st.one_of(_likely, _latin, _numbers)), max_size=7)


# ---- grammar ---------------------------------------------------------------------------------------------------


@given(_pairs)
def test_metadata_written_and_read_is_the_same(pairs: list[tuple[str, bytes]]) -> None:
    """HEAD gives back what POST brought, whatever it is."""
    assert headers.metadata_pairs(headers.render_metadata(Metadata(tuple(pairs)))) == tuple(pairs)


@given(_pairs)
def test_metadata_rendered_is_printable_ascii(pairs: list[tuple[str, bytes]]) -> None:
    """No value reaches a header raw, line breaks least of all."""
    assert re.fullmatch(r"[\x20-\x7e]*", headers.render_metadata(Metadata(tuple(pairs))))


@given(_numbers)
def test_length_is_read_exactly_when_the_grammar_says_so(text: str) -> None:
    """The regular expression and the largest number, nothing else; blanks around are HTTP's."""
    bare = text.strip(" \t")
    allowed = re.fullmatch("[0-9]+", bare) is not None and int(bare) <= 2**63 - 1
    try:
        read = headers.upload_length([("Upload-Length", text)])
    except InvalidUploadLengthError:
        assert not allowed
    else:
        assert allowed
        assert read == int(bare)


@given(_headers, st.booleans(), st.sampled_from(["POST", "PATCH", "DELETE", "HEAD", "GET", "x"]))
def test_any_headers_are_read_or_refused(found: list[tuple[str, str]], on_upload: bool, method: str) -> None:
    """A stranger's header never becomes an exception that nobody expects, and every refusal can be rendered."""
    code = wire.presented_code(found)
    attempts = (
        lambda: wire.parse_create(found, drop_id=DROP_ID, presented=code),
        lambda: wire.parse_patch(found),
        lambda: wire.effective_method(method, found, on_upload=on_upload),
        lambda: wire.check_version(method, found),
        lambda: wire.check_sizes(found),
    )
    for attempt in attempts:
        try:
            attempt()
        except DropoffError as error:
            status, answered, body = wire.render_error(error, head=method == "HEAD")
            assert 400 <= status < 600
            assert all(re.fullmatch(r"[\x20-\x7e]*", value) for _, value in answered)
            assert (body == b"") is (method == "HEAD")


@given(_pairs, st.binary(min_size=10, max_size=10), st.integers(0, 7), st.sampled_from(["code", "note", "CoDe"]))
def test_the_code_is_in_no_metadata(pairs: list[tuple[str, bytes]], random: bytes, at: int, key: str) -> None:
    """Wherever the code stands among the pairs, nothing of what is kept is the code."""
    code = ids.format_code(random)
    pairs = [pair for pair in pairs if pair[0] != key]
    pairs.insert(min(at, len(pairs)), (key, code.lower().encode()))
    sent = [("Upload-Metadata", headers.render_metadata(Metadata(tuple(pairs))))]
    kept = headers.metadata(sent, code).pairs
    assert all(ids.normalise_code(value.decode("utf-8", "replace")) != ids.normalise_code(code) for _, value in kept)
    assert base64.b64encode(code.lower().encode()).decode() not in headers.render_metadata(Metadata(kept))
    assert kept == tuple(pair for pair in pairs if pair in kept)


@given(st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=20, unique=True), st.data())
def test_concat_of_urls_in_any_form_finds_their_tokens(tokens: list[bytes], data: st.DataObject) -> None:
    """However the URLs are written, tokens and order come out."""
    names = [token.hex() for token in tokens]
    forms = [
        data.draw(st.sampled_from(["/files/{0}/{1}", "https://a.example/x/files/{0}/{1}/", "{0}/{1}?q"])).format(
            DROP_ID, name
        )
        for name in names
    ]
    gap = data.draw(st.sampled_from([" ", "  "]))
    assert concat.parse("final;" + gap.join(forms), DROP_ID) == (Role.FINAL, tuple(map(ids.UploadToken, names)))


@given(st.binary(min_size=10, max_size=10))
def test_code_written_and_typed_is_the_same(random: bytes) -> None:
    """Every code survives how people type it."""
    code = ids.format_code(random)
    typed = code.lower().replace("-", " ").replace("0", "o").replace("1", "l")
    assert ids.normalise_code(typed) == code.replace("-", "")


# ---- policy ----------------------------------------------------------------------------------------------------

_small = st.integers(0, 50)
_limits = st.builds(
    DropTerms, st.just("x"), max_upload_bytes=_small, max_total_bytes=_small, max_uploads=st.integers(0, 4)
)
_roles = st.sampled_from(list(Role))


def _drop(limits: DropTerms) -> Dropoff:
    return Dropoff(DROP_ID, NOW, limits)


@given(_limits, st.lists(st.tuples(_roles, _small), max_size=12), _small, st.integers(0, 200))
def test_admitted_uploads_never_exceed_the_limits(
    limits: DropTerms, asked: list[tuple[Role, int]], server_max: int, free: int
) -> None:
    """For any requests in any order, each once the bytes before are on the disk: number, bytes and disk hold."""
    uploads = total = 0
    for role, length in asked:
        # A final takes over bytes that its parts have; here it is asked for with what there is.
        length = min(length, total) if role is Role.FINAL else length  # noqa: PLW2901
        request = policy.Request(role, length, length, Metadata())
        try:
            policy.admit(
                _drop(limits),
                Usage(uploads, total),
                request,
                now=NOW,
                server_max_bytes=server_max,
                space=policy.Space(free - total),
            )
        except DropoffError:
            continue
        uploads += role is not Role.PARTIAL
        total += 0 if role is Role.FINAL else length
        assert length <= (server_max or length)
        assert length <= (limits.max_upload_bytes or length)
    assert uploads <= (limits.max_uploads or uploads)
    assert total <= (limits.max_total_bytes or total)
    assert total <= free


@given(_limits, _small, _small, _small, _small, _small, _small, st.integers(0, 100))
def test_next_reservation_is_enough_and_within_every_limit(
    limits: DropTerms, others: int, present: int, stored: int, needed: int, ahead: int, server_max: int, free: int
) -> None:
    """A grant covers the need, never exceeds the step, and breaks no limit."""
    stored = min(stored, present)
    try:
        granted = policy.next_reservation(
            _drop(limits),
            Usage(1, others),
            present_bytes=present,
            stored_bytes=stored,
            needed_bytes=needed,
            ahead_bytes=ahead,
            server_max_bytes=server_max,
            space=policy.Space(free),
        )
    except DropoffError:
        return
    assert needed <= granted <= needed + ahead
    assert granted <= (server_max or granted)
    assert granted <= (limits.max_upload_bytes or granted)
    if granted > present:
        assert others + granted <= (limits.max_total_bytes or others + granted)
        assert granted - stored <= free
