"""Single uploads, each changed in one way, and what is to become of them. Expectations are written by hand."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dropoff_tus.model import Metadata
from storage import age
from storage.age import Identity, KeyType, Stanza, Wrapper
from storage.age.header import serialize_header
from storage.files.layout import Layout
from storage.keyring.envelope import Envelope
from storage.keyring.identities import read_identity_file, receipt_key
from storage.keyring.keys import ServerKeys
from storage.keyring.lines import Record, sign_line
from storage.keyring.secretkey import SecretKey
from storage.keyring.signing import SigningKey, new_signing_key
from storage.uploads.log import sign_receipt
from storage.uploads.receipts import RECEIPT_HEAD

Files = dict[str, bytes]
_SECTOR_BYTES = 512
_REFUSED = {"stat": "damaged", "check": "finding", "append": "damaged"}
_REFUSED_FINISHED = {"stat": "damaged", "check": "finding", "read": "damaged"}
_WHOLE = {"stat": "offset 1007", "check": "clean", "append": "appended"}
_TORN = {"stat": "offset 1000", "check": "clean", "append": "appended"}
_FINISHED = {"stat": "offset 18", "check": "clean", "read": "plaintext", "receipt": "signed"}


def make(folder: Path, keys: ServerKeys, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return all vectors by name, made of the uploads below a folder."""
    return _Vectors(folder, keys, rows).made


class _Vectors:
    def __init__(self, folder: Path, keys: ServerKeys, rows: Mapping[str, Mapping[str, Any]]) -> None:
        self._folder, self._keys, self._rows = folder, keys, rows
        self.made: dict[str, dict[str, Any]] = {}
        self._name = ""
        self._open, self._done = "managed-x25519-unfinished", "example"
        self._logs()
        self._logs_with_signed_nonsense()
        self._envelopes()
        self._data()
        self._receipts()

    # ---- how they are made ----------------------------------------------------------------------------------

    def _files(self, upload: str) -> Files:
        layout = Layout(self._folder / "store", self._folder / "keys", self._folder / "secrets" / "ingest")
        paths = layout.of(self._rows[upload]["id"])
        files = {
            "log": paths.log,
            "data": paths.data,
            "envelope": paths.root_envelope,
            "receipt": paths.receipt,
        }
        return {name: path.read_bytes() for name, path in files.items() if path.exists()}

    def _add(
        self,
        name: str,
        comment: str,
        upload: str,
        change: Mapping[str, bytes | None],
        expect: Mapping[str, str],
    ) -> None:
        files: dict[str, bytes | None] = {**self._files(upload), **change}
        self.made[name] = {
            "comment": comment,
            "upload": self._rows[upload]["id"],
            "content": self._rows[upload].get("text") or "0, 1, 4, 9, …: squares modulo 251",
            "expect": dict(expect),
            "files": {key: base64.b64encode(raw).decode() for key, raw in files.items() if raw is not None},
        }

    def _lines(self, upload: str) -> list[bytes]:
        return [text + b"\n" for text in self._files(upload)["log"][:-1].split(b"\n")]

    def _log(self, name: str, comment: str, lines: list[bytes], expect: Mapping[str, str], upload: str = "") -> None:
        self._add(f"log-{name}", comment, upload or self._open, {"log": b"".join(lines)}, expect)

    def _signed(self, line: bytes, key: SigningKey | None = None, **fields: object) -> bytes:
        """Return a line with other members, signed anew."""
        record: Record = json.loads(line.rpartition(b" ")[0])
        return sign_line({**record, **fields}, key or self._keys.signing)

    # ---- the log --------------------------------------------------------------------------------------------

    def _logs(self) -> None:
        create, first, second = self._lines(self._open)
        self._log("untouched", "a create record and two commits", [create, first, second], _WHOLE)
        self._log("torn-without-lf", "the last 20 bytes never came", [create, first, second[:-20]], _TORN)
        self._log("torn-before-lf", "all but the LF came", [create, first, second[:-1]], _TORN)
        self._log("torn-with-cr", "CR ends no line", [create, first, second, b'{"at":"2026\r'], _WHOLE)
        start = len(create) + len(first)
        edge = -start % _SECTOR_BYTES
        holes = bytes(edge) + second[edge:]
        self._log("torn-with-unwritten-sector", "the size came, a sector did not", [create, first, holes], _TORN)
        self._log("torn-all-nul", "the size came, no byte did", [create, first, bytes(len(second))], _TORN)
        nul = second.replace(b" ", b"\0")
        self._log("nul-in-place-of-the-space", "one flipped bit is no torn write", [create, first, nul], _REFUSED)
        changed = second[:-1] + b"\x0b"
        self._log("last-lf-flipped", "the last line is whole but for its LF", [create, first, changed], _REFUSED)
        self._log("create-torn", "nothing was ever acknowledged", [create[:-30]], {"stat": "not found"})
        flipped = second.replace(b'"tot":[2,1007', b'"tot":[2,1006')
        self._log("last-line-changed", "its signature does not fit", [create, first, flipped], _REFUSED)
        changed = create.replace(b'"mode":"managed"', b'"mode":"sealed"')
        self._log("create-changed", "its signature does not fit", [changed, first, second], _REFUSED)
        text, _, signature = second[:-1].rpartition(b" ")
        padded = text + b" " + signature + b"==\n"
        self._log("signature-padded", "there is one way to write a signature", [create, first, padded], _REFUSED)
        alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        other = alphabet[alphabet.index(signature[-1]) + 1]
        spare = text + b" " + signature[:-1] + bytes([other]) + b"\n"
        self._log("signature-spare-bits", "the bits left over are zero", [create, first, spare], _REFUSED)
        # To tell the offset two lines are enough; before anything is written all are looked at.
        between = {"stat": "offset 1007", "check": "finding", "append": "damaged"}
        flipped = first.replace(b'"l":1000', b'"l":1001')
        self._log("middle-line-changed", "`prev` of the line after it does not fit", [create, flipped, second], between)
        self._log("middle-line-missing", "`prev` of the line after it does not fit", [create, second], between)
        self._log(
            "lines-swapped",
            "the last line is an earlier one",
            [create, second, first],
            {
                "stat": "offset 1000",
                "check": "finding",
            },
        )
        foreign = SigningKey(new_signing_key())
        self._log(
            "foreign-key", "signed by a key that is not ours", [create, first, self._signed(second, foreign)], _REFUSED
        )
        receipt = sign_receipt(json.loads(text), self._keys.signing)
        self._log("receipt-as-line", "signed by our key, as something else", [create, first, receipt], _REFUSED)
        mine = self._lines(self._done)
        self._log("of-another-upload", "the log of another upload, whole", mine, _REFUSED)
        expect = {"stat": "offset 18", "check": "clean", "read": "plaintext", "receipt": "signed"}
        self._log("final-with-segments", "the final record commits the last segment itself", mine, expect, self._done)
        kept = self._lines("managed-x25519-finished")
        assert b'"segs"' not in kept[-1]
        expect = {"stat": "offset 1007", "check": "clean", "read": "plaintext", "receipt": "signed"}
        self._log(
            "final-without-segments", "every commit had a record of its own", kept, expect, "managed-x25519-finished"
        )
        self._log(
            "final-missing",
            "a finished upload without its last line",
            mine[:-1],
            {
                "stat": "offset 7",
                "check": "finding",
                "read": "not found",
            },
            self._done,
        )

    def _logs_with_signed_nonsense(self) -> None:
        """Add lines that our own key signed and that do not follow the format."""
        create, first, second = self._lines(self._open)
        newer = self._signed(create, v=3)
        self._log(
            "version-3", "a later format is refused, not misread", [newer], {"stat": "damaged", "check": "finding"}
        )
        other = self._signed(create, id="0" * 32)
        self._log("create-of-another-id", "an upload's log lies in its own folder", [other], {"stat": "damaged"})
        self._log(
            "create-twice", "one upload, one beginning", [create, create], {"stat": "damaged", "check": "finding"}
        )
        finding = {"check": "finding"}
        tot = [2, 1008, json.loads(second.rpartition(b" ")[0])["tot"][2]]
        self._log("totals-wrong", "the segments do not add up", [create, first, self._signed(second, tot=tot)], finding)
        segs = json.loads(second.rpartition(b" ")[0])["segs"]
        gap = self._signed(second, segs=[{**segs[0], "o": 1001}])
        self._log("segments-with-a-gap", "segments follow each other", [create, first, gap], finding)
        mine = self._lines(self._done)
        after = self._signed(mine[1], prev=_hash(mine[-1]))
        self._log("record-after-final", "nothing but `end` follows `final`", [*mine, after], finding, self._done)
        short = self._signed(mine[-1], len=17)
        self._log(
            "final-length-wrong",
            "the length is what was stored",
            [*mine[:-1], short],
            {
                **finding,
                "read": "damaged",
            },
            self._done,
        )
        gone = self._lines("terminated")
        after = self._signed(gone[-1], prev=_hash(gone[-1]))
        self._log("record-after-end", "nothing follows `end`", [*gone, after], finding, "terminated")
        two = [gone[0], self._signed(gone[-1], prev=_hash(gone[0]), final=None)]
        self._log(
            "tombstone",
            "only creation and end",
            two,
            {"stat": "terminated", "check": "clean", "read": "gone"},
            "terminated",
        )
        self._log(
            "ended",
            "a tombstone",
            gone,
            {"stat": "terminated", "check": "clean", "read": "gone"},
            "terminated",
        )

    # ---- envelopes ------------------------------------------------------------------------------------------

    def _envelopes(self) -> None:
        fields = json.loads(age.decrypt(self._files(self._open)["envelope"], self._keys.managed))
        envelope = Envelope(
            fields["id"],
            Identity.parse(fields["identity"]),
            bytes.fromhex(fields["salt"]),
            SecretKey(bytes.fromhex(fields["receipt"])),
            Metadata(tuple((key, base64.b64decode(value)) for key, value in fields["metadata"])),
        )
        (own,) = self._keys.managed
        (text,) = read_identity_file(self._folder / "secrets" / "root-x25519.txt")
        root = Identity.parse(text).recipient
        mine: list[Wrapper] = [root, own]

        def add(name: str, comment: str, blob: bytes | None, outcome: str) -> None:
            self._add(
                f"envelope-{name}", comment, self._open, {"envelope": blob}, {"stat": "offset 1007", "append": outcome}
            )

        add("sealed-anew", "to the same recipients", envelope.seal(mine), "appended")
        add("own-stanza-first", "their order is free", envelope.seal(mine[::-1]), "appended")
        add("of-another-upload", "each belongs to one", self._files(self._done)["envelope"], "damaged")
        add("with-another-id", "each names its upload", replace(envelope, upload_id="0" * 32).seal(mine), "damaged")
        other = replace(envelope, identity=Identity.generate(KeyType.X25519))
        add("with-another-identity", "it is not that of the create record", other.seal(mine), "damaged")
        other = replace(envelope, metadata=Metadata((("filename", b"other.txt"),)))
        add("with-other-metadata", "the create record commits to them", other.seal(mine), "damaged")
        add(
            "with-another-salt",
            "the create record commits to it",
            replace(envelope, salt=bytes(32)).seal(mine),
            "damaged",
        )
        add("changed", "its last byte", _flip(self._files(self._open)["envelope"], -1), "damaged")
        add(
            "to-somebody-else",
            "no key of ours opens it",
            envelope.seal([Identity.generate(KeyType.X25519).recipient, SecretKey(bytes(32))]),
            "key missing",
        )
        add("to-the-roots-only", "the server has no way in", envelope.seal([root]), "key missing")
        add("missing", "it may be put back: nothing is thrown away", None, "key missing")
        add("with-33-stanzas", "32 are enough", envelope.seal([own, *[root] * 32]), "damaged")
        add("with-32-stanzas", "the most there may be", envelope.seal([own, *[root] * 31]), "appended")
        for name, content in {
            "of-version-3": {**fields, "v": 3},
            "without-identity": {key: value for key, value in fields.items() if key != "identity"},
            "of-a-number": 7,
        }.items():
            blob = age.encrypt(json.dumps(content).encode(), mine)
            add(name, "the content is not that of version 2", blob, "damaged")
        plain = json.dumps(fields, separators=(",", ":"), sort_keys=True).encode()
        hybrid = Identity.generate(KeyType.HYBRID)
        file_key = bytes(range(16))
        wrapped = own.wrap(file_key)
        both = _seal([wrapped, root.wrap(file_key), hybrid.recipient.wrap(file_key)], file_key, plain)
        add("of-both-types", "one file is to recipients of one type", both, "damaged")
        passphrase = _seal([wrapped, Stanza("scrypt", ("AAAAAAAAAAAAAAAAAAAAAA", "10"), bytes(32))], file_key, plain)
        add("with-a-passphrase", "stanzas are X25519, hybrid or the server's", passphrase, "damaged")
        plugin = _seal([wrapped, Stanza("piv-p256", ("AAAA",), bytes(32))], file_key, plain)
        cut = _seal([replace(wrapped, body=wrapped.body[:-1]), root.wrap(file_key)], file_key, plain)
        add("own-stanza-cut", "its body has 32 bytes", cut, "damaged")
        add("with-a-plugin", "stanzas are X25519, hybrid or the server's", plugin, "damaged")

    # ---- data and receipts ----------------------------------------------------------------------------------

    def _data(self) -> None:
        data = self._files(self._open)["data"]

        def add(name: str, comment: str, upload: str, raw: bytes, expect: Mapping[str, str]) -> None:
            self._add(f"data-{name}", comment, upload, {"data": raw}, expect)

        add("with-an-uncommitted-tail", "it is cut", self._open, data + b"more", _WHOLE)
        missing = {"stat": "offset 1007", "check": "finding", "append": "damaged"}
        add("cut", "committed bytes are missing", self._open, data[:-1], missing)
        done = self._files(self._done)["data"]
        damage = {"stat": "offset 18", "check": "finding", "read": "damaged", "receipt": "signed"}
        add("untouched", "two segments", self._done, done, _FINISHED)
        add("finished-with-a-tail", "a finished upload has exactly its bytes", self._done, done + b"x", damage)
        add("finished-cut", "the last byte is missing", self._done, done[:-1], damage)
        add("byte-changed", "in the second segment's chunk", self._done, _flip(done, -20), damage)
        add("header-changed", "in the first segment's header", self._done, _flip(done, 30), damage)
        first = len(done) - (184 + 11 + 16)
        add("segments-swapped", "each is an age file that opens", self._done, done[first:] + done[:first], damage)
        recipient = Identity.parse(
            json.loads(age.decrypt(self._files(self._done)["envelope"], self._keys.managed))["identity"]
        ).recipient
        forged = done[:first] + age.encrypt(b"impostors!\n", recipient)
        add("segment-forged", "sealed to the upload's own recipient, and never committed", self._done, forged, damage)

    def _receipts(self) -> None:
        blob = self._files(self._done)["receipt"]

        def add(name: str, comment: str, raw: bytes, outcome: str) -> None:
            expect = {**_FINISHED, "receipt": outcome}
            self._add(f"receipt-{name}", comment, self._done, {"receipt": raw}, expect)

        self._add("receipt-untouched", "as it was written", self._done, {}, _FINISHED)
        key = receipt_key(str(self._rows[self._done]["token"]))
        line = key.open(blob[len(RECEIPT_HEAD) :])
        payload = json.loads(line.rpartition(b" ")[0])
        add("changed", "its last byte", _flip(blob, -1), "damaged")
        foreign = sign_receipt(payload, SigningKey(new_signing_key()))
        add("of-a-foreign-key", "signed by a key that is not ours", RECEIPT_HEAD + key.seal(foreign), "damaged")
        add(
            "as-line-of-a-log",
            "signed by our key, as something else",
            RECEIPT_HEAD + key.seal(sign_line(payload, self._keys.signing)),
            "damaged",
        )
        other = line.replace(b'"length":18', b'"length":19')
        add("with-another-length", "its signature does not fit", RECEIPT_HEAD + key.seal(other), "damaged")
        stranger = RECEIPT_HEAD + SecretKey(bytes(32)).seal(line)
        add("to-somebody-else", "signed by us, encrypted under another key", stranger, "damaged")
        empty = {**_FINISHED, "check": "finding", "receipt": "damaged"}
        self._add("receipt-without-its-head", "it begins with its kind", self._done, {"receipt": key.seal(line)}, empty)
        self._add(
            "receipt-cut",
            "too short for nonce and tag",
            self._done,
            {"receipt": RECEIPT_HEAD + b"x"},
            {**_FINISHED, "receipt": "damaged"},
        )


def _seal(stanzas: list[Stanza], file_key: bytes, plain: bytes) -> bytes:
    nonce = bytes(16)
    out = memoryview(bytearray(len(plain) + age.TAG_BYTES))
    age.ChunkSealer(age.payload_key(file_key, nonce)).seal_last(memoryview(plain), out)
    return serialize_header(stanzas, file_key) + nonce + bytes(out)


def _flip(raw: bytes, at: int) -> bytes:
    changed = bytearray(raw)
    changed[at] ^= 1
    return bytes(changed)


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
