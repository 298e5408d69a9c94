"""Files that the browser seals: what is stored is what `age` opens, with the recipient's identity and no other."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.bad_link import BadLink
from tests.browser.visitor import Visitor, file_of, link_to, sha256_of, visiting
from tests.support.programs import CURRENT_AGE, require_program
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.timeout(180)
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Receiver:
    """Somebody who has an age identity."""

    age: Path
    identity: Path
    recipient: str

    def open(self, sealed: Path) -> bytes:
        """Open a file with age itself."""
        return subprocess.run([self.age, "-d", "-i", self.identity, sealed], capture_output=True, check=True).stdout


@pytest.fixture(params=["x25519", "hybrid"])
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Receiver:
    """Make an identity of each kind; Debian's age knows one of them."""
    hybrid = request.param == "hybrid"
    age = require_program(CURRENT_AGE if hybrid else "age")
    made = subprocess.run([age.with_name("age-keygen"), *["-pq"] * hybrid], capture_output=True, check=True)
    identity = tmp_path / "identity.txt"
    identity.write_bytes(made.stdout)
    public = next(line for line in made.stdout.decode().splitlines() if line.startswith("# public key: "))
    return Receiver(age, identity, public.removeprefix("# public key: "))


def _assert_only_for(receiver: Receiver, server: ServerProcess, drop_id: str, file: Path, folder: Path) -> None:
    """See that the one upload of a drop-off is this file, for who has the identity."""
    (row,) = server.cli_json("upload", "list", "--drop", drop_id)
    assert (row["state"], row["filename"], row["sealed_by"]) == ("complete", file.name, "age")
    sealed, opened = folder / "exported.age", folder / "opened"
    identity = ("--identity", str(receiver.identity))
    server.cli("upload", "export", row["id"], "--output", str(sealed), "--keep-sealed", *identity)
    assert sealed.read_bytes().startswith(b"age-encryption.org/v1\n")
    assert receiver.open(sealed) == file.read_bytes()
    server.cli("upload", "export", row["id"], "--output", str(opened), *identity)
    assert sha256_of(opened) == sha256_of(file)


def test_file_sealed_in_the_browser_opens_with_age_and_by_export(
    server: ServerProcess, visitor: Visitor, receiver: Receiver, tmp_path: Path
) -> None:
    """The page says that it seals, and who can open it; what is exported as sealed opens with age."""
    options = ("--seal-in-browser", "--recipient", receiver.recipient, "--receiver", "the Cohort Team")
    link, drop_id = link_to(server, *options)
    file = file_of(tmp_path / "genome é.bin", 3 * MIB + 17)
    visitor.open(link)
    visitor.wait_for("about")
    assert "Sealed on this device before sending" in visitor.text
    assert "Only the Cohort Team can open it." in visitor.text
    visitor.send([file])
    visitor.wait_for("done", milliseconds=60_000)
    _assert_only_for(receiver, server, drop_id, file, tmp_path)


def test_file_not_sealed_in_the_browser_is_not_said_to_be(server: ServerProcess, visitor: Visitor) -> None:
    """Which of the two holds is plain."""
    link, _ = link_to(server)
    visitor.open(link)
    visitor.wait_for("about")
    assert "Encrypted on arrival" in visitor.text
    assert "Sealed" not in visitor.text


@pytest.mark.parametrize("size_bytes", [0, 1, 65536, 65537])
def test_sealed_file_of_odd_size_is_whole(
    server: ServerProcess, visitor: Visitor, tmp_path: Path, size_bytes: int
) -> None:
    """Age's chunks are 64 KiB, and an empty file has one of them too."""
    identity = server.data / "root-identity.txt"
    link, drop_id = link_to(server, "--seal-in-browser")
    file = file_of(tmp_path / "odd.bin", size_bytes)
    visitor.open(link)
    visitor.send([file])
    visitor.wait_for("done", milliseconds=60_000)
    (row,) = server.cli_json("upload", "list", "--drop", drop_id)
    opened = tmp_path / "opened"
    server.cli("upload", "export", row["id"], "--output", str(opened), "--identity", str(identity))
    assert opened.read_bytes() == file.read_bytes()


def test_sealed_file_goes_on_after_the_page_was_closed(
    chromium: Browser, server: ServerProcess, receiver: Receiver, tmp_path: Path
) -> None:
    """The key stays in the browser, so that the second visit ends the same age file."""
    link, drop_id = link_to(server, "--seal-in-browser", "--recipient", receiver.recipient)
    file = file_of(tmp_path / "genome.bin", 24 * MIB + 5)
    with BadLink(server.port, bytes_per_second=MIB) as line, visiting(chromium) as visitor:
        link = link.replace(f":{server.port}/", f":{line.port}/")
        visitor.open(link)
        visitor.send([file])
        visitor.wait_for_some_stored()
        visitor.page.close()
        (begun,) = server.cli_json("upload", "list", "--drop", drop_id)
        line.change(bytes_per_second=0)
        again = visitor.another_page()
        again.open(link)
        again.send([file])
        again.wait_for("done", milliseconds=90_000)
        assert again.complaints == []
    (row,) = server.cli_json("upload", "list", "--drop", drop_id)
    assert row["id"] == begun["id"]
    _assert_only_for(receiver, server, drop_id, file, tmp_path)
