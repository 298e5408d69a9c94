"""The commands of the documentation, run page by page as they stand there, against the real program.

A page says with `<!-- run -->` above a block that it is to be run; tests/unit/test_documentation.py sees to it that
each block says something. The blocks of a page run in one shell, in their order, in a folder of their own that holds
`root-identity.txt`, `scan.zip` and its receipt, the server's public key, and a copy of store and keys, beside a server
with a drop-off and two uploads. Words that a reader replaces are replaced: see `_FILLED`.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.documents import run
from tests.support.server_process import REPOSITORY, Drop, ServerProcess, free_port_pair, program, upload_id_of
from tests.support.tus_raw import TusSite, metadata
from tests.support.warm import WarmProgram

_PAGES = [
    str(page.relative_to(REPOSITORY))
    for page in (*sorted(REPOSITORY.glob("docs/**/*.md")), REPOSITORY / "README.md", REPOSITORY / "nginx" / "README.md")
    if run(page)
]
_FILLED = {
    r"\bID\b": "{drop}",
    r"\bUPLOAD\b": "{upload}",
    r"\bUPLOAD_ID\b": "{finished}",
    r"\bDROP_ID\b": "{drop}",
    r"\bTOKEN_ID\b": "{token}",
    r"\b0b3c1a52-[0-9a-f-]{27}": "{drop}",
    r"--key (?:…|<[^>]*>)": "--key signing-key.pub",
    r"--dir /srv/dropoff\b": "--dir new-store --listen 127.0.0.1:{port}",
    r"/srv/dropoff\b": "{data}",
    r"127\.0\.0\.1:8080\b": "127.0.0.1:{port}",
    r"127\.0\.0\.1:8081\b": "127.0.0.1:{monitoring}",
    r"/backup/dropoff\b": "backup",
    r"https://drop\.example\.org\b": "{url}",
    r"\bage1…": "{recipient}",
    r"--since 4711\b": "--since 1",
}
_CONTENT = b"a file of ours\n" * 100
_SHIMS = {
    "sudo": '[ "$1" = -u ] && shift 2\nexec "$@"\n',
    "setpriv": 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n',
    "journalctl": 'cat "$SERVER_LOG"\n',
    "systemctl": 'echo "active (running)"\n',
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Drop, str, str]]:
    """Run a server after a wrong code; return it, the drop-off, an upload that was cut off, and a finished one."""
    with ServerProcess(tmp_path_factory.mktemp("docs")) as server:
        drop = server.create_drop()
        finished = drop.site.upload(_CONTENT, {"Upload-Metadata": metadata(filename="scan.zip")})
        url = drop.site.create(1000)
        with drop.site.connect() as connection:
            head = drop.site.patch_headers(0, {"Content-Length": "1000"})
            connection.send(drop.site.message("PATCH", url, head, b"x" * 400))
            connection.half_close()
            connection.is_closed_within(20)
        assert TusSite(drop.upload_url, "WRONG").post({"Upload-Length": "1"}).status == 403
        yield server, drop, upload_id_of(url), upload_id_of(finished)


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a folder for the PATH, with the program, and with stand-ins for what only an installed server has."""
    folder = tmp_path_factory.mktemp("tools")
    for name, script in _SHIMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}")
        (folder / name).chmod(0o755)
    warm = WarmProgram(folder)
    yield folder
    warm.close()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", _PAGES)
def test_commands_of_a_page_work_as_written(
    served: tuple[ServerProcess, Drop, str, str], tools: Path, tmp_path: Path, page: str
) -> None:
    """Each of them, and each part of a pipe."""
    server, drop, upload, finished = served
    recipient = re.search(r"age1\w+", (server.data / "config.toml").read_text("utf-8"))
    assert recipient is not None
    values = {
        "drop": drop.id,
        "upload": upload,
        "finished": finished,
        "token": server.cli_json("token", "create", "--name", "to revoke", "--scope", "uploads:read")["id"],
        "data": str(server.data),
        "url": server.url,
        "port": str(free_port_pair()),
        "monitoring": str(server.port + 1),
        "recipient": recipient[0],
    }
    (tmp_path / "root-identity.txt").write_bytes((server.data / "root-identity.txt").read_bytes())
    (tmp_path / "scan.zip").write_bytes(_CONTENT)
    (tmp_path / "signing-key.pub").write_bytes(server.cli("keys", "show").stdout)
    for name in ("receipt.txt", "receipts.txt"):
        (tmp_path / name).write_bytes(server.cli("upload", "receipt", finished).stdout)
    for name in ("store", "keys"):
        shutil.copytree(server.data / name, tmp_path / "copy" / name, ignore=shutil.ignore_patterns("servers"))
    script = "set -euo pipefail\ntrap 'kill $(jobs -p) 2>/dev/null && wait || :' EXIT\n"
    for mark, block in run(REPOSITORY / page):
        for word, value in _FILLED.items():
            block = re.sub(word, value.format(**values), block)  # noqa: PLW2901 - each word in turn
        script += block if mark == "run" else _in_background(block)
    log = tmp_path / "serve.log"
    log.write_text(server.logged(), "utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DROPOFF_TUS")},
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "DROPOFF_TUS_CONFIG": str(server.config),
        "SERVER_LOG": str(log),
    }
    done = subprocess.run(
        ["bash", "-xc", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=160, check=False
    )
    assert done.returncode == 0, f"{page}:\n{done.stderr[-4000:]}\n{done.stdout[-1000:]}"


def _in_background(command: str) -> str:
    """Return a command that goes on while the next ones run; they wait until it says `ready`."""
    real = f'( PATH="{Path(program()[0]).parent}:$PATH"; exec {command.strip()} ) >ready.txt 2>errors.txt &\n'
    return f"{real}until grep -q '^ready' ready.txt; do kill -0 $!; sleep 0.05; done\n"
