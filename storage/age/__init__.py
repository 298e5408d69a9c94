"""The age v1 file format (https://age-encryption.org/v1), bytes in and bytes out.

Two kinds of key: X25519, and hybrid ML-KEM-768 with X25519. Passphrases, plugins and ASCII armour are left out;
a stanza of a kind that is not known is ignored, as the format asks, unless the caller wants it refused.

Layers, each importing only those before it: `errors`; `bech32`, `kdf`; `header`; `stream`, `x25519`; `hybrid`;
`recipients`; `files`.
"""

from storage.age.errors import (
    AgeError,
    HeaderError,
    HeaderMacError,
    KeyTextError,
    MixedRecipients,
    NoMatchingIdentity,
    PayloadError,
)
from storage.age.files import SegmentSealer, StreamOpener, check_form, decrypt, encrypt, open_header, seal_header
from storage.age.header import (
    MAX_HEADER_BYTES,
    MAX_STANZAS,
    Buffer,
    Header,
    Stanza,
    decode_base64,
    encode_base64,
    parse_header,
)
from storage.age.recipients import FILE_KEY_BYTES, Identity, KeyType, Opener, Recipient, Wrapper, parse_identity_file
from storage.age.stream import (
    CHUNK_BYTES,
    NONCE_BYTES,
    SEALED_CHUNK_BYTES,
    TAG_BYTES,
    ChunkOpener,
    ChunkSealer,
    payload_key,
    plain_size,
    sealed_size,
)

__all__ = [
    "CHUNK_BYTES",
    "FILE_KEY_BYTES",
    "MAX_HEADER_BYTES",
    "MAX_STANZAS",
    "NONCE_BYTES",
    "SEALED_CHUNK_BYTES",
    "TAG_BYTES",
    "AgeError",
    "Buffer",
    "ChunkOpener",
    "ChunkSealer",
    "Header",
    "HeaderError",
    "HeaderMacError",
    "Identity",
    "KeyTextError",
    "KeyType",
    "MixedRecipients",
    "NoMatchingIdentity",
    "Opener",
    "PayloadError",
    "Recipient",
    "SegmentSealer",
    "Stanza",
    "StreamOpener",
    "Wrapper",
    "check_form",
    "decode_base64",
    "decrypt",
    "encode_base64",
    "encrypt",
    "open_header",
    "parse_header",
    "parse_identity_file",
    "payload_key",
    "plain_size",
    "seal_header",
    "sealed_size",
]
