"""`upload export`, receipts, and what they leave behind when they fail."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from server.cli.output import CommandError
from server.cli.target import output_file
from tests.support.server_process import ServerProcess, program, run_warm, upload_id_of
from tests.support.tus_raw import metadata

_CONTENT = bytes(range(256)) * 1000


@pytest.fixture(scope="module")
def url(limited: ServerProcess) -> str:
    """Return the URL of a finished upload."""
    return limited.drop.site.upload(_CONTENT, {"Upload-Metadata": metadata(filename="data.bin")})


# ---- the file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "content"),
    [
        ("0-0", _CONTENT[:1]),
        ("0-1023", _CONTENT[:1024]),
        ("65535-65536", _CONTENT[65535:65537]),
        ("255000-", _CONTENT[255000:]),
        ("255999-999999999", _CONTENT[-1:]),
    ],
)
def test_export_of_a_range_writes_those_bytes(limited: ServerProcess, url: str, wanted: str, content: bytes) -> None:
    """Both ends included, as in HTTP; across chunks, and up to the end."""
    target = limited.folder / f"range-{wanted}"
    done = limited.cli_json("upload", "export", url, "--range", wanted, "--output", str(target))
    assert target.read_bytes() == content
    assert done["bytes"] == len(content)
    assert target.stat().st_mode & 0o777 == 0o600


def test_export_of_a_range_past_the_end_says_how_long_the_upload_is(limited: ServerProcess, url: str) -> None:
    """And writes nothing."""
    target = limited.folder / "past"
    done = limited.cli("upload", "export", url, "--range", "256000-", "--output", str(target), check=False)
    assert (done.returncode, b"the upload has 256000 bytes" in done.stderr) == (1, True)
    assert not target.exists()


def test_export_to_stdout_writes_the_bytes_alone(limited: ServerProcess, url: str) -> None:
    """Whole, and a range."""
    assert limited.cli("upload", "export", url, "--output", "-").stdout == _CONTENT
    assert limited.cli("upload", "export", url, "--output", "-", "--range", "10-19").stdout == _CONTENT[10:20]


def test_export_never_replaces_a_file_unless_told(limited: ServerProcess, url: str) -> None:
    """With --force the file, whole."""
    target = limited.folder / "taken"
    target.write_bytes(b"mine")
    done = limited.cli("upload", "export", url, "--output", str(target), check=False)
    assert (done.returncode, b"exists already and was left as it is; use --force" in done.stderr) == (1, True)
    assert target.read_bytes() == b"mine"
    limited.cli("upload", "export", url, "--output", str(target), "--force")
    assert target.read_bytes() == _CONTENT


def test_export_into_no_folder_is_a_sentence(limited: ServerProcess, url: str) -> None:
    """A missing folder, and one that takes no files."""
    for name in (limited.folder / "none" / "x", Path("/proc/x")):
        done = limited.cli("upload", "export", url, "--output", str(name), check=False)
        assert (done.returncode, b"cannot write in" in done.stderr) == (1, True)


def test_export_of_unfinished_or_ended_upload_is_refused(limited: ServerProcess) -> None:
    """With how far it is."""
    site = limited.drop.site
    open_url = site.create(10)
    site.patch(open_url, 0, b"hello")
    for said in (b"is not finished (open, 5 bytes are here)", b"its content is gone"):
        done = limited.cli("upload", "export", open_url, "--output", "x", check=False)
        assert done.returncode == 1
        assert said in done.stderr
        site.delete(open_url)


@pytest.mark.parametrize("unnamed", [True, False], ids=["unnamed", "named"])
def test_new_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool) -> None:
    """Where the system has unnamed files and where it has not: no race replaces, no error leaves anything."""
    monkeypatch.setattr("server.cli.target._UNNAMED", {})
    if not unnamed:
        monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY | os.O_WRONLY | os.O_CREAT)
    target = tmp_path / "x"
    with output_file(target) as file:
        file.write(b"hello")
        assert not target.exists()
        assert len(list(tmp_path.iterdir())) == (0 if unnamed else 1)
    assert target.read_bytes() == b"hello"
    other = tmp_path / "other"
    with pytest.raises(CommandError, match="exists already"), output_file(other) as file:  # noqa: PT012
        file.write(b"mine")
        other.write_bytes(b"theirs, come meanwhile")
    assert other.read_bytes() == b"theirs, come meanwhile"
    with output_file(other, replace=True) as file:
        file.write(b"forced")
    assert other.read_bytes() == b"forced"
    with pytest.raises(KeyboardInterrupt), output_file(tmp_path / "cut") as file:  # noqa: PT012
        file.write(b"secret")
        raise KeyboardInterrupt
    assert {path.name for path in tmp_path.iterdir()} == {"x", "other"}


def test_full_disk_is_a_sentence(tmp_path: Path) -> None:
    """The limit on a file's size stands for a disk that is full: nothing of the file is left."""
    code = (
        "import resource, signal, pathlib\n"
        "from server.cli.target import output_file\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "with output_file(pathlib.Path('x')) as file: file.write(bytes(200_000))\n"
    )
    python = Path(program()[0]).with_name("python")
    done = subprocess.run([python, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "cannot write x: File too large; nothing of it was left there" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_export_leaves_no_plain_bytes(limited: ServerProcess, tmp_path: Path, number: signal.Signals) -> None:
    """Not even in a hidden file, and not even when nothing could clean up."""
    big = limited.drop.site.upload(os.urandom(40_000_000))
    target = tmp_path / "big"
    command = [*program(), "--config", str(limited.config), "upload", "export", big, "--output", str(target)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 20
        while not _writes_in(process.pid, tmp_path) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(number)
        status = process.wait(10)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert status in {128 + number, -number}, "it was done before the signal came"
    assert list(tmp_path.iterdir()) == []


def test_export_of_what_was_tampered_with_leaves_nothing(limited: ServerProcess, tmp_path: Path) -> None:
    """At the end of a large one, after most of it was written: the sentence names the upload; a file there stays."""
    url = limited.drop.site.upload(os.urandom(3_000_000))
    upload_id = upload_id_of(url)
    data = limited.data / "store" / "uploads" / upload_id[:2] / upload_id / "data"
    whole = data.read_bytes()
    old = tmp_path / "old"
    old.write_bytes(b"mine")
    for changed in (whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:], whole[:-1], whole + b"x"):
        data.write_bytes(changed)
        for options in (("--output", str(tmp_path / "new")), ("--output", str(old), "--force")):
            done = limited.cli("upload", "export", url, *options, check=False)
            assert done.returncode == 1
            assert f"upload {upload_id} does not verify".encode() in done.stderr
            assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"old": b"mine"}
    data.write_bytes(whole)
    assert limited.cli("upload", "export", url, "--output", str(tmp_path / "new"), check=False).returncode == 0


def _writes_in(pid: int, folder: Path) -> bool:
    """Tell whether a process has a file of a folder open, with a name or without."""
    try:
        names = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: PTH115 - no such file
    except OSError:
        return False
    return any(name.startswith(f"{folder}/") for name in names)


# ---- receipts ---------------------------------------------------------------------------------------------------


@pytest.fixture
def receipt(limited: ServerProcess, url: str, tmp_path: Path) -> Path:
    """Return a file with the receipt of the upload."""
    path = tmp_path / "receipt.txt"
    path.write_bytes(limited.cli("upload", "receipt", url).stdout)
    return path


@pytest.fixture(scope="module")
def public(limited: ServerProcess) -> str:
    """Return the key to pin."""
    return limited.cli("keys", "show").stdout.decode().strip()


def test_receipt_verifies_offline_with_the_pinned_key(tmp_path: Path, receipt: Path, public: str) -> None:
    """No configuration is near; the file is compared; the key may be in a file."""
    copy, pinned = tmp_path / "data.bin", tmp_path / "key.pub"
    copy.write_bytes(_CONTENT)
    pinned.write_text(f"{public}\n")
    for key in (public, str(pinned)):
        done = run_warm("verify-receipt", str(receipt), str(copy), "--key", key, "--json", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["receipt"]["sha256"] == hashlib.sha256(_CONTENT).hexdigest()
        assert answer["file"]["digests"] == ["sha256"]
    receipt.write_bytes(receipt.read_bytes().rstrip() + b"\r\n\r\n")
    assert run_warm("verify-receipt", str(receipt), "--key", public, folder=tmp_path).returncode == 0


def test_receipt_with_another_file_does_not_verify(tmp_path: Path, receipt: Path, public: str) -> None:
    """Of another length, of other bytes, or not there."""
    copy = tmp_path / "data.bin"
    for content, said in ((_CONTENT[:-1], b"it has 255999 bytes"), (_CONTENT[:-1] + b"x", b"its sha256 differs")):
        copy.write_bytes(content)
        done = run_warm("verify-receipt", str(receipt), str(copy), "--key", public, folder=tmp_path)
        assert (done.returncode, said in done.stderr) == (1, True)
    done = run_warm("verify-receipt", str(receipt), "nowhere", "--key", public, folder=tmp_path)
    assert (done.returncode, b"cannot read nowhere" in done.stderr) == (1, True)


def test_receipt_of_another_key_or_changed_does_not_verify(
    tmp_path: Path, receipt: Path, public: str, other_key: str
) -> None:
    """With any key that it names or brings along: only the pinned one counts."""
    line = receipt.read_bytes()
    forged = line.replace(b'"length":256000', b'"length":256001')
    assert forged != line
    brought = line.replace(b'{"', f'{{"key":"{other_key}","'.encode(), 1)
    for content, key in ((line, other_key), (forged, public), (brought, public), (b"", public), (b"{} x", public)):
        receipt.write_bytes(content)
        done = run_warm("verify-receipt", str(receipt), "--key", key, folder=tmp_path)
        assert (done.returncode, b"was not signed by this key, or was changed" in done.stderr) == (1, True)
        assert done.stdout == b""


@pytest.fixture(scope="module")
def other_key() -> str:
    """Return a public key that signed nothing here."""
    return base64.b64encode(bytes([9]) + bytes(31)).decode()


def test_receipt_of_a_sealed_upload_needs_the_identity(limited: ServerProcess) -> None:
    """The server cannot read it; the holder of the root identity can."""
    sealed = limited.create_drop("--sealed", name="sealed").site.upload(b"hello")
    done = limited.cli("upload", "receipt", sealed, check=False)
    assert (done.returncode, b"for a sealed upload give --identity" in done.stderr) == (1, True)
    identity = str(limited.data / "root-identity.txt")
    read = limited.cli_json("upload", "receipt", sealed, "--identity", identity)
    assert read["length"] == 5
    done = limited.cli("upload", "export", sealed, "--output", "-", check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert limited.cli("upload", "export", sealed, "--output", "-", "--identity", identity).stdout == b"hello"
