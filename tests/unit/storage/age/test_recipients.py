"""Recipients and identities: their texts, what they refuse, and that an identity shows nothing of itself."""

import copy
import logging
import pickle
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from storage import age
from storage.age import Identity, KeyType, Recipient, Stanza, bech32, x25519
from storage.age.header import encode_base64

_KEY = b"sixteen byte key"
_PRIME = 2**255 - 19
_BOTH = pytest.mark.parametrize("key_type", list(KeyType))

# The examples in the specification.
_SPEC_X25519 = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
_SPEC_X25519_RECIPIENT = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"
_SPEC_HYBRID = "AGE-SECRET-KEY-PQ-1XX76JRALNLXDMEW0CRK45QMCCH4X06SE84UN3VPM33W6HWDX0H3SK3ZQFR"
_SPEC_HYBRID_START = "age1pq1x34nzsvr0rxjsgdn8zgyhfe8j7ceq5r9rdelkjuh3y235jzxshfg87pzf5zrqtzdxz95paef6caq5aapdmwjjqpjf"
_SPEC_HYBRID_END = "nw5jmqd0uvny6ttsn09508k0c55zfnegrm9efhxpfqdkmhh6gjtqmwze9pyyzk3tlhl53k2ykx3qheyty7saeq0d3fzv49zc0k"


def _identity(key_type: KeyType, number: int = 1) -> Identity:
    """Return an identity that is the same in every run."""
    return Identity(key_type, bytes([number]) * 32)


def test_identity_of_the_specification_has_its_recipient() -> None:
    """Both examples of the specification come out letter for letter."""
    assert str(Identity.parse(_SPEC_X25519).recipient) == _SPEC_X25519_RECIPIENT
    hybrid = str(Identity.parse(_SPEC_HYBRID).recipient)
    assert hybrid.startswith(_SPEC_HYBRID_START)
    assert hybrid.endswith(_SPEC_HYBRID_END)
    assert len(hybrid) == 1959


@pytest.mark.parametrize("text", [_SPEC_X25519, _SPEC_HYBRID])
def test_identity_secret_text_is_what_was_parsed(text: str) -> None:
    """An identity is written as it was read."""
    assert Identity.parse(text).secret_text() == text


@_BOTH
def test_recipient_every_form_is_equal(key_type: KeyType) -> None:
    """Text, bytes and identity lead to one recipient, equal and of one hash."""
    recipient = _identity(key_type).recipient
    same = {
        recipient,
        Recipient.parse(str(recipient)),
        Recipient.from_public_bytes(key_type, recipient.public_bytes),
        _identity(key_type).recipient,
    }
    assert same == {recipient}
    assert recipient.key_type is key_type
    assert len(recipient.public_bytes) == {KeyType.X25519: 32, KeyType.HYBRID: 1216}[key_type]
    assert recipient != _identity(key_type, 2).recipient
    assert recipient != str(recipient)


@_BOTH
def test_identity_generate_differs_every_time(key_type: KeyType) -> None:
    """New identities come from the system's random source."""
    texts = {Identity.generate(key_type).secret_text() for _ in range(8)}
    assert len(texts) == 8


@_BOTH
def test_unwrap_own_stanza_gives_the_key_and_others_none(key_type: KeyType) -> None:
    """A stanza opens for its identity only; to any other it is not an error."""
    stanza = _identity(key_type).recipient.wrap(_KEY)
    assert _identity(key_type).unwrap(stanza) == _KEY
    assert _identity(key_type, 2).unwrap(stanza) is None
    for other in KeyType:
        if other is not key_type:
            assert _identity(other).unwrap(stanza) is None
    assert _identity(key_type).recipient.wrap(_KEY) != stanza


@_BOTH
def test_unwrap_changed_body_is_no_match(key_type: KeyType) -> None:
    """A stanza that does not authenticate is somebody else's."""
    stanza = _identity(key_type).recipient.wrap(_KEY)
    changed = Stanza(stanza.kind, stanza.args, bytes([stanza.body[0] ^ 1]) + stanza.body[1:])
    assert _identity(key_type).unwrap(changed) is None


@_BOTH
@pytest.mark.parametrize(
    "change",
    [
        lambda stanza: Stanza(stanza.kind, (), stanza.body),
        lambda stanza: Stanza(stanza.kind, (*stanza.args, "more"), stanza.body),
        lambda stanza: Stanza(stanza.kind, (stanza.args[0] + "=",), stanza.body),
        lambda stanza: Stanza(stanza.kind, (stanza.args[0] + "AAAA",), stanza.body),
        lambda stanza: Stanza(stanza.kind, (stanza.args[0][:-4],), stanza.body),
        lambda stanza: Stanza(stanza.kind, stanza.args, stanza.body[:-1]),
        lambda stanza: Stanza(stanza.kind, stanza.args, stanza.body + b"\0"),
    ],
    ids=["no share", "more arguments", "padded", "long share", "short share", "short body", "long body"],
)
def test_unwrap_malformed_stanza_raises_for_any_identity(key_type: KeyType, change: Callable[[Stanza], Stanza]) -> None:
    """A malformed stanza condemns the file, whoever reads it."""
    stanza = change(_identity(key_type).recipient.wrap(_KEY))
    for number in (1, 2):
        with pytest.raises(age.HeaderError):
            _identity(key_type, number).unwrap(stanza)


@pytest.mark.parametrize("size", [0, 15, 17, 32])
def test_wrap_file_key_of_another_size_raises(size: int) -> None:
    """A file key has 16 bytes; another size would be unreadable later."""
    with pytest.raises(ValueError, match="16"):
        _identity(KeyType.X25519).recipient.wrap(bytes(size))


def _small_order_points() -> list[bytes]:
    """Return every encoding in 32 bytes, top bit set or not, of the points that age must refuse."""
    points = []
    for point in sorted(x25519._SMALL_ORDER):  # noqa: SLF001 - the set under test
        for encoded in (point, point + _PRIME):
            if encoded < 2**255:
                points += [encoded.to_bytes(32, "little"), (encoded | 1 << 255).to_bytes(32, "little")]
    return points


@pytest.mark.parametrize("point", _small_order_points(), ids=bytes.hex)
def test_small_order_point_is_refused_everywhere(point: bytes) -> None:
    """Each is a point for which the curve itself gives zero, and neither a recipient nor a share."""
    with pytest.raises(ValueError, match="shared key"):
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(point))
    with pytest.raises(age.KeyTextError):
        Recipient.from_public_bytes(KeyType.X25519, point)
    with pytest.raises(age.HeaderError, match="small order"):
        _identity(KeyType.X25519).unwrap(Stanza("X25519", (encode_base64(point),), bytes(32)))
    hybrid = _identity(KeyType.HYBRID).recipient
    with pytest.raises(age.KeyTextError):
        Recipient.from_public_bytes(KeyType.HYBRID, hybrid.public_bytes[:1184] + point)
    with pytest.raises(age.HeaderError, match="small order"):
        _identity(KeyType.HYBRID).unwrap(Stanza("mlkem768x25519", (encode_base64(bytes(1088) + point),), bytes(32)))


def test_small_order_points_are_as_many_as_the_curve_has() -> None:
    """Five values, two of which have a second form below 2^255, each with the top bit clear or set."""
    assert len(_small_order_points()) == 14


def test_recipient_second_encoding_of_a_point_is_refused() -> None:
    """It would be a working X25519 key, but no identity could open what is wrapped for it."""
    point = bytearray(_identity(KeyType.X25519).recipient.public_bytes)
    point[31] |= 0x80
    with pytest.raises(age.KeyTextError):
        Recipient.from_public_bytes(KeyType.X25519, bytes(point))
    with pytest.raises(age.KeyTextError):
        Recipient.from_public_bytes(KeyType.X25519, (_PRIME + 2).to_bytes(32, "little"))


@pytest.mark.parametrize(
    ("key_type", "raw"),
    [
        (KeyType.X25519, b""),
        (KeyType.X25519, bytes(31)),
        (KeyType.X25519, b"\x09" * 33),
        (KeyType.HYBRID, b"\x09" * 32),
        (KeyType.HYBRID, b"\xff" * 1184 + b"\x09" + bytes(31)),
        (KeyType.HYBRID, b"\x09" * 1217),
    ],
)
def test_recipient_malformed_bytes_raise(key_type: KeyType, raw: bytes) -> None:
    """A wrong size, and an ML-KEM key with coefficients out of range."""
    with pytest.raises(age.KeyTextError):
        Recipient.from_public_bytes(key_type, raw)


@pytest.mark.parametrize(
    "text",
    [
        "",
        _SPEC_X25519,
        _SPEC_X25519_RECIPIENT.upper(),
        _SPEC_X25519_RECIPIENT + "\n",
        _SPEC_X25519_RECIPIENT[:-1],
        bech32.encode("age", bytes(31)),
        bech32.encode("age1pq", b"\x09" * 32),
        bech32.encode("age1yubikey", b"\x09" * 32),
        "ssh-ed25519 AAAA",
    ],
)
def test_recipient_parse_unusable_text_raises_without_showing_it(text: str) -> None:
    """A text that is no recipient is refused, and never echoed: it may be a secret in the wrong place."""
    with pytest.raises(age.KeyTextError) as caught:
        Recipient.parse(text)
    assert len(text) == 0 or text not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        _SPEC_X25519_RECIPIENT,
        _SPEC_X25519.lower(),
        _SPEC_X25519[:-1] + "A",
        " " + _SPEC_X25519,
        bech32.encode("AGE-SECRET-KEY-", bytes(31)),
        bech32.encode("AGE-SECRET-KEY-PQ-", bytes(64)),
        bech32.encode("AGE-PLUGIN-X-", bytes(32)),
    ],
)
def test_identity_parse_unusable_text_raises_without_showing_it(text: str) -> None:
    """A text that is no identity is refused without a word of it in message or cause."""
    with pytest.raises(age.KeyTextError) as caught:
        Identity.parse(text)
    assert len(text) == 0 or text.strip() not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@_BOTH
def test_identity_shows_nothing_of_itself(key_type: KeyType, caplog: pytest.LogCaptureFixture) -> None:
    """Neither print nor log nor format reveals a part of the secret; pickle and copy refuse."""
    identity = Identity.generate(key_type)
    secret = identity.secret_text().rpartition("1")[2]
    with caplog.at_level(logging.INFO):
        logging.getLogger("test").info("identity %s %r", identity, identity)
    shown = [str(identity), repr(identity), f"{identity}", repr([identity]), caplog.text]
    for text in shown:
        assert not any(secret[at : at + 6].lower() in text.lower() for at in range(len(secret) - 6))
        assert "redacted" in text
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="pickled or copied"):
            attempt(identity)


@_BOTH
def test_recipient_repr_is_short_and_tells_two_apart(key_type: KeyType) -> None:
    """A repr in a log line does not carry two kilobytes."""
    first, second = _identity(key_type).recipient, _identity(key_type, 2).recipient
    assert repr(first) != repr(second)
    assert len(repr(first)) < 50


def test_parse_identity_file_comments_blank_lines_and_both_types_are_read() -> None:
    """The file that age-keygen writes, also with Windows line ends."""
    text = f"# created: today\r\n# public key: {_SPEC_X25519_RECIPIENT}\r\n{_SPEC_X25519}\r\n\n  \n{_SPEC_HYBRID}\n"
    identities = age.parse_identity_file(text)
    assert [identity.secret_text() for identity in identities] == [_SPEC_X25519, _SPEC_HYBRID]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (_SPEC_X25519[:-1] + "A", "checksum"),
        (_SPEC_X25519.lower(), "not an age identity"),
        (_SPEC_X25519 + " # mine", "bech32"),
        (_SPEC_X25519 + "\x0c" + _SPEC_HYBRID, "bech32"),
        (_SPEC_X25519_RECIPIENT, "recipient"),
        ("AGE-PLUGIN-YUBIKEY-1QQQQQQQ", "plugins"),
        ("age-encryption.org/v1", "passphrase"),
        ("-----BEGIN AGE ENCRYPTED FILE-----", "passphrase"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----", "bech32"),
        ("hunter2", "bech32"),
    ],
)
def test_parse_identity_file_bad_line_is_named_by_number_only(line: str, reason: str) -> None:
    """The operator learns which line and why, the log learns nothing."""
    with pytest.raises(age.KeyTextError) as caught:
        age.parse_identity_file(f"# comment\n{line}\n")
    message = str(caught.value)
    assert message.startswith("line 2 ")
    assert reason in message
    assert line[:24] not in message
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n"])
def test_parse_identity_file_without_identity_raises(text: str) -> None:
    """An empty key file is a mistake, not a list of no keys."""
    with pytest.raises(age.KeyTextError, match="no identity"):
        age.parse_identity_file(text)
