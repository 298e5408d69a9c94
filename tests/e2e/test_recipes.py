"""The recipes of docs/upload, extracted from there and run, for files of every name.

Beside each file lies one that a careless recipe would send instead.
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.documents import run_by
from tests.support.programs import require_program
from tests.support.server_process import REPOSITORY, Drop, ServerProcess

_NAMES = (
    (
        "scan.zip",
        "data[1-1].csv",
        "{data1.csv,data2.csv}",
        "-x.zip",
        "--help",
        "-",
        "@data1.csv",
        "&x",
        "#1",
        "a;type=b",
    ),
    (
        "two words.txt",
        " edges ",
        "it's",
        'quo"te',
        "back\\slash\\n",
        "line\nbreak",
        "end\n",
        "tab\t",
        "*.csv",
        "?ata1.csv",
    ),
    ("100%", "%s%n", "%41.txt", "$(touch pwned)", "`touch pwned`", "$HOME", "~", "a,b", "!!", "x" * 200),
    ("gr\xf6\xdfe \U0001f600.txt", "gro\u0308\xdfe.txt", os.fsdecode(b"latin-1 \xe4.txt")),
)
Recipe = Callable[[Drop, str], str]
_UPLOAD = REPOSITORY / "docs" / "upload"
# As on systems that are not GNU's, and older: a padded count, and no options for base64.
_OLD_TOOLS = {
    "wc": 'printf "%8d\\n" "$(command -p wc "$@")"\n',
    "base64": '[ $# = 0 ] || { echo "base64: no options here" >&2; exit 64; }\ncommand -p base64 -w 0\n',
    "stat": "exit 64\n",
}


def _block(document: str) -> str:
    """Return a recipe of a document."""
    text = (_UPLOAD / document).read_text("utf-8")
    return str(re.findall(r"^```\w+\n(.*?)^```", text, re.DOTALL | re.MULTILINE)[0])


def _filled(recipe: str, **values: str) -> str:
    """Put a person's own values into a recipe, as they would be typed: each is assigned once."""
    for name, value in values.items():
        found = re.search(rf"\b{name}=(?:<[^>]*>|[^\s<])+", recipe)
        assert found is not None, name
        recipe = f"{recipe[: found.start()]}{name}={shlex.quote(value)}{recipe[found.end() :]}"
    return recipe


def _curl_of_document(drop: Drop, name: str) -> str:
    recipe, _ = run_by(__file__, "docs/upload/curl.md")
    return _filled(recipe, url=drop.upload_url, code=drop.code or "", file=name)


def _curl_in_one_request(drop: Drop, name: str) -> str:
    _, recipe = run_by(__file__, "docs/upload/curl.md")
    return _filled(recipe, url=drop.upload_url, code=drop.code or "", file=name)


def _type(recipe: str, folder: Path, shell: str, **tools: str) -> subprocess.CompletedProcess[bytes]:
    """Run a recipe in a shell, with some tools replaced."""
    shims = folder.parent / "tools"
    shims.mkdir(exist_ok=True)
    for tool, script in tools.items():
        (shims / tool).write_text(f"#!/bin/sh\n{script}")
        (shims / tool).chmod(0o755)
    environment = {**os.environ, "PATH": f"{shims}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    command = (os.fsencode(shell), b"-c", os.fsencode(recipe))
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=60, check=False)


def _files(tmp_path: Path, names: Sequence[str]) -> Path:
    """Make a folder of files of which each holds its own name, with others that are easily taken for one of them."""
    (folder := tmp_path / "files").mkdir()
    for name in ("data1.csv", "data2.csv", "x.zip", "x", "1", *names):
        (folder / name).write_bytes(os.fsencode(name))
    return folder


def _assert_arrived(server: ServerProcess, drop: Drop, names: Sequence[str]) -> None:
    """Compare what arrived with the files: their names, as far as they are text, and their bytes."""
    sent = {
        os.fsencode(name).decode("utf-8", "replace"): hashlib.sha256(os.fsencode(name)).hexdigest() for name in names
    }
    rows = server.uploads(drop)
    assert {row["state"] for row in rows} == {"complete"}
    assert {row["filename"] or "": row["sha256"] for row in rows} == sent
    assert len(rows) == len(names)


@pytest.mark.parametrize("names", _NAMES)
@pytest.mark.parametrize(("recipe", "shell"), [(_curl_of_document, "sh"), (_curl_in_one_request, "bash")])
def test_curl_sends_each_file_under_its_name(
    server: ServerProcess, tmp_path: Path, names: Sequence[str], recipe: Recipe, shell: str
) -> None:
    """With tools that are old or not GNU's, and nothing else in the folder is touched."""
    require_program("curl")
    drop, folder = server.create_drop(), _files(tmp_path, names)
    before = sorted(folder.iterdir())
    for name in names:
        done = _type(recipe(drop, name), folder, shell, **_OLD_TOOLS)
        assert done.returncode == 0, (name, done.stdout, done.stderr)
    assert sorted(folder.iterdir()) == before
    _assert_arrived(server, drop, names)


@pytest.mark.parametrize("recipe", [_curl_of_document, _curl_in_one_request])
def test_curl_shows_our_sentence_where_it_is_refused(server: ServerProcess, tmp_path: Path, recipe: Recipe) -> None:
    """And ends as what has failed."""
    require_program("curl")
    drop = server.create_drop("--allow-name", "*.csv")
    done = _type(recipe(drop, "scan.zip"), _files(tmp_path, ["scan.zip"]), "sh")
    assert done.returncode != 0
    assert b"ERR_TYPE_NOT_ALLOWED: " in done.stdout
    assert server.uploads(drop) == []


def test_curl_shows_our_sentence_where_the_bytes_are_refused(server: ServerProcess, tmp_path: Path) -> None:
    """For a file that has grown; the other command of the document then asks for the offset."""
    require_program("curl")
    asked = re.search(r"`(curl -I [^`]*)`", (_UPLOAD / "curl.md").read_text("utf-8"))
    assert asked is not None
    typed = f'{_curl_of_document(server.create_drop(), "scan.zip")}\necho "ended with $?"\n{asked[1]}'
    done = _type(typed, _files(tmp_path, ["scan.zip"]), "sh", wc="echo 1\n")
    assert b"ERR_UPLOAD_SIZE_EXCEEDED: " in done.stdout
    assert b"ended with 22\n" in done.stdout
    assert b"upload-offset: 0" in done.stdout.lower()


def test_tuspy_sends_each_file_under_its_name(server: ServerProcess, tmp_path: Path) -> None:
    """As a script, for all names that are text."""
    names = [name for group in _NAMES for name in group if name.isprintable()]
    drop, folder = server.create_drop(), _files(tmp_path, names)
    text = _block("tuspy.md")
    line = re.search(r'^file = "[^"]*"$', text, flags=re.MULTILINE)
    assert line is not None
    script = f"upload_url, code = {drop.upload_url!r}, {drop.code!r}\n"
    script += "\n".join(text.replace(line[0], f"file = {name!r}") for name in names)
    (tmp_path / "send.py").write_text(script, "utf-8")
    subprocess.run([sys.executable, "-W", "ignore", tmp_path / "send.py"], cwd=folder, check=True, timeout=60)
    _assert_arrived(server, drop, names)


def test_tus_js_client_sends_each_file_under_its_name(server: ServerProcess, tmp_path: Path) -> None:
    """As a program for Node, where a file's name and type are given to its bytes."""
    drop, names = server.create_drop(), [name for group in _NAMES for name in group if "latin" not in name]
    clients = f"{REPOSITORY / 'tests' / 'e2e' / 'clients'}/"
    script = (
        'import { createRequire } from "node:module"\n'
        f'const tus = createRequire({json.dumps(clients)})("tus-js-client")\n'
        f"const uploadUrl = {json.dumps(drop.upload_url)}, code = {json.dumps(drop.code)}\n"
        f"for (const name of {json.dumps(names)}) {{\n"
        'const file = Object.assign(Buffer.from(name), { name, type: "text/csv" })\n'
        f"{_block('tus-js-client.md')}}}\n"
    )
    (tmp_path / "send.mjs").write_text(script, "utf-8")
    subprocess.run([require_program("node"), tmp_path / "send.mjs"], check=True, timeout=60)
    _assert_arrived(server, drop, names)


def test_uppy_sends_each_file_under_its_name(server: ServerProcess, tmp_path: Path) -> None:
    """As a program for Node, which gives Uppy the bytes of each file as a page's file input would."""
    drop, names = server.create_drop(), [name for group in _NAMES for name in group if "latin" not in name]
    imports, _, recipe = _block("uppy.md").partition("\n\n")
    # Uppy sets `withCredentials` on the request of a browser, which tus-js-client does not have in Node.
    script = (
        f"{imports}\nimport * as tus from 'tus-js-client'\n"
        "const request = Object.getPrototypeOf(new tus.DefaultHttpStack().createRequest('GET', 'http://localhost'))\n"
        "request.getUnderlyingObject = function () { return this._request ?? {} }\n"
        f"const uploadUrl = {json.dumps(drop.upload_url)}, code = {json.dumps(drop.code)}\n{recipe}"
        f"for (const name of {json.dumps(names)}) {{\n"
        "const data = Object.assign(Buffer.from(name), { size: Buffer.byteLength(name) })\n"
        "uppy.addFile({ name, type: 'text/csv', data })\n}\n"
        "const { failed } = await uppy.upload()\n"
        "if (failed.length > 0) throw new Error(failed[0].error)\n"
    )
    (tmp_path / "node_modules").symlink_to(REPOSITORY / "tests" / "e2e" / "clients" / "node_modules")
    (tmp_path / "send.mjs").write_text(script, "utf-8")
    subprocess.run([require_program("node"), tmp_path / "send.mjs"], check=True, timeout=60)
    _assert_arrived(server, drop, names)
