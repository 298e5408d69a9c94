"""A server is installed, upgraded, taken back and uninstalled by the commands of the documents, as they stand there.

Both releases are made of this tree; the newer one has a table that the older one does not know.
"""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.documents import run_by
from tests.support.machine import Machine
from tests.support.programs import require_program
from tests.support.server_process import REPOSITORY

_OLD, _NEW = "0.1.0", "0.2.0"
_NEW_TABLE = b'''"""A table that is new."""

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "0002", "0001", None, None


def upgrade() -> None:
    """Make it."""
    op.create_table("new", sa.Column("id", sa.BigInteger, primary_key=True))
'''
_BEGUN = r"""
made=$(drop-off drop create --name "Over the upgrade" --json)
url=$(grep -oP '"upload_url": "\K[^"]+' <<<"$made") code=$(grep -oP '"code": "\K[^"]+' <<<"$made")
drop=$(basename "$url")
tus() {
  curl -sS --retry 5 --retry-all-errors --fail-with-body -D - -H 'Tus-Resumable: 1.0.0' -H "Dropoff-Code: $code" "$@"
}
begin() { tus -X POST -H 'Upload-Length: 10' "$url" | tr -d '\r' | sed -n 's/^location: //pI'; }
send() {
  printf %s "$3" |
    tus -X PATCH -H 'Content-Type: application/offset+octet-stream' -H "Upload-Offset: $2" --data-binary @- "$1"
}
half=$(begin)
send "$half" 0 01234
"""
_WRITTEN_SINCE = """
send "$half" 5 56789
since=$(begin)
send "$since" 0 abcdefghij
"""
_ALL_THERE = """
test "$(drop-off upload export "$half" --output -)" = 0123456789
test "$(drop-off upload export "$since" --output -)" = abcdefghij
drop-off store check
"""


def _make_wheel(folder: Path, version: str) -> None:
    """Put the wheel of a version into the place of the one that was built; the newer one's has the new table."""
    (wheel,) = folder.glob("dropoff_tus-*.whl")
    with zipfile.ZipFile(wheel) as old:
        files = {name: old.read(name) for name in old.namelist() if not name.endswith("/RECORD")}
    (before,) = {name.split("/")[0] for name in files if name.endswith(".dist-info/METADATA")}
    info = f"dropoff_tus-{version}.dist-info"
    files = {name.replace(before, info): data for name, data in files.items()}
    if version == _NEW:
        files["storage/catalog/migrations/versions/0002_new.py"] = _NEW_TABLE
        files["storage/catalog/schema.py"] = files["storage/catalog/schema.py"].replace(b'"0001"', b'"0002"')
    files[f"{info}/METADATA"] = re.sub(rb"(?m)^Version: .*$", f"Version: {version}".encode(), files[f"{info}/METADATA"])
    sums = {name: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=") for name, data in files.items()}
    lines = [f"{name},sha256={sums[name].decode()},{len(data)}\n" for name, data in files.items()]
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    wheel.unlink()
    with zipfile.ZipFile(folder / f"dropoff_tus-{version}-py3-none-any.whl", "w") as new:
        for name, data in files.items():
            new.writestr(name, data)


def make_archives(folder: Path, *, light: bool) -> None:
    """Make the archives of both releases; a light one has none of the packages that the program needs."""
    made = folder / "made"
    made.mkdir()
    if light:
        (made / "wheels").mkdir()
        shutil.copytree(REPOSITORY / "deploy", made / "deploy")
        shutil.copytree(REPOSITORY / "nginx", made / "nginx")
    else:
        subprocess.run([require_program("make"), "package"], cwd=REPOSITORY, check=True)
        (archive,) = (REPOSITORY / "dist").glob("dropoff-tus-*-python*.tar.gz")
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=archive.parent, check=True)
        subprocess.run(["tar", "--extract", "--strip-components=1", "--file", archive], cwd=made, check=True)
        assert {"deploy", "docs", "nginx", "config.example.toml"} <= {path.name for path in made.iterdir()}
    for version in (_OLD, _NEW):
        name = f"dropoff-tus-{version}-python3.11-x86_64"
        shutil.copytree(made, folder / name)
        wheels = folder / name / "wheels"
        if light:
            (wheels / f"dropoff_tus-{version}-py3-none-any.whl").touch()
        else:
            _make_wheel(wheels, version)
        sums = "find . -type f ! -name SHA256SUMS | sort | xargs sha256sum >SHA256SUMS"
        subprocess.run(sums, shell=True, cwd=folder / name, check=True)  # noqa: S602 - as the Makefile has it
        subprocess.run(["tar", "--create", "--gzip", "--file", f"{name}.tar.gz", name], cwd=folder, check=True)
        shutil.rmtree(folder / name)


def _install(machine: Machine) -> None:
    """Do all that production.md says, up to the first drop-off."""
    program, identity, user, service, front, first, backup = run_by(__file__, "docs/operate/production.md")
    machine.run(program)
    recipient = re.search(r"age1\w+", machine.run(identity))
    assert recipient is not None
    machine.run(user.replace("age1…", recipient[0]).replace(*_NAME))
    machine.run(service)
    machine.run("[ -e /proc/net/if_inet6 ] || sed --in-place '/\\[::\\]/d' nginx/dropoff-tus.conf")
    machine.run(front.replace(*_NAME).replace("YOUR.NAME", "localhost"))
    said = machine.run(first)
    assert "code: " in said
    machine.run(backup.replace("/backup/", "/var/backup/"))
    assert "catalog.sqlite3" in machine.run("ls /var/backup/dropoff-tus")


_NAME = ("drop.example.org", "localhost")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("light", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["light", "as-released"])
def test_server_is_installed_upgraded_taken_back_and_uninstalled_as_written(tmp_path: Path, *, light: bool) -> None:
    """An upload goes on over the change; what came with the new tables is there on the way back, too."""
    if os.geteuid() != 0:
        pytest.skip("installing needs root")
    install, look, change, front, back, restore, start, remove = (
        block.replace("/backup/", "/var/backup/") for block in run_by(__file__, "docs/operate/upgrade.md")
    )
    make_archives(tmp_path, light=light)
    with Machine(tmp_path, light=light) as machine:
        machine.run("top=$PWD")
        _install(machine)
        machine.run(_BEGUN)
        machine.run(f"cd $top\n{install}")
        said = machine.run(look)
        assert light or f"dropoff-tus {_NEW}\n" in said
        machine.run(change)
        machine.run(front)
        machine.run(_WRITTEN_SINCE + _ALL_THERE)
        assert light or f"/opt/dropoff-tus-{_NEW}/" in machine.run("tr '\\0' ' ' </proc/$(cat /run/main)/cmdline")
        turn = "".join(back.splitlines(keepends=True)[:2])
        machine.run(restore + turn + start)
        assert light or f"/opt/dropoff-tus-{_OLD}/" in machine.run("tr '\\0' ' ' </proc/$(cat /run/main)/cmdline")
        machine.run(_ALL_THERE)
        machine.run(back)
        machine.run(remove)
        assert machine.run("ls /opt /usr/local/bin /etc/systemd/system | grep dropoff || :") == ""
        assert "store" in machine.run("ls /var/lib/dropoff-tus")
