"""Commands speak to operators: no word that was written for tus clients, and states that are true."""

import json
import shutil
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.e2e.answers import assert_refused
from tests.support.server_process import Drop, ServerProcess, run_warm, upload_id_of

_FOR_CLIENTS = (b"POST", b"create it", b"create a new one", b"PATCH", b"HEAD", b"whoever gave you the code")
_LINES = (
    "upload export UPLOAD --output -",
    "upload receipt UPLOAD",
    "upload show UPLOAD",
    "upload delete UPLOAD --yes",
    "keys rotate UPLOAD",
    "store check UPLOAD",
)


@pytest.mark.parametrize("line", _LINES)
def test_upload_that_the_store_lost_is_told_to_an_operator(limited: ServerProcess, line: str) -> None:
    """The catalog knows it, the store has nothing of it: no command advises to upload it."""
    url = limited.drop.site.upload(b"lost")
    found = upload_id_of(url)
    for folder in (limited.data / "store" / "uploads", limited.data / "keys"):
        for path in folder.glob(f"??/{found}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = limited.cli(*line.replace("UPLOAD", found).split(), check=False)
    said = done.stdout + done.stderr
    assert [word for word in _FOR_CLIENTS if word in said] == []
    if "show" not in line:
        assert done.returncode == 1
        assert b"the store has nothing of this upload" in said or b"but the store lacks it" in said, said
    # A client still hears what a client can do.
    assert b"create it with POST" in assert_refused(limited.drop.site.request("GET", f"{url}/receipt", {}), 404).body
    limited.cli("upload", "delete", found, "--yes", "--damaged")


@pytest.mark.parametrize("line", _LINES)
def test_upload_that_has_ended_is_told_to_an_operator(limited: ServerProcess, line: str) -> None:
    """Neither what was terminated nor what is unfinished is advised to be uploaded."""
    site = limited.drop.site
    ended, begun = site.create(10), site.create(10)
    site.delete(ended)
    for url in (ended, begun):
        done = limited.cli(*line.replace("UPLOAD", upload_id_of(url)).split(), check=False)
        assert [word for word in _FOR_CLIENTS if word in done.stdout + done.stderr] == []


def test_drop_list_and_show_say_whether_a_drop_off_takes_uploads(limited: ServerProcess) -> None:
    """Open, closed, expired or not open yet: the word that the page shows too."""
    drops: dict[str, Drop] = {
        "open": limited.create_drop("--expires", "1d", name="open"),
        "closed": limited.create_drop(name="closed"),
        "not_open": limited.create_drop("--opens", "1d", name="not open yet"),
        "expired": limited.create_drop("--expires", "1s", name="expired"),
    }
    limited.cli("drop", "close", drops["closed"].id)
    deadline = time.monotonic() + 20
    while limited.cli_json("drop", "show", drops["expired"].id)["state"] == "open" and time.monotonic() < deadline:
        time.sleep(0.2)
    lines = limited.cli("drop", "list").stdout.decode().splitlines()
    listed = {drop["id"]: drop["state"] for drop in limited.cli_json("drop", "list")}
    for state, drop in drops.items():
        assert f"{drop.id}  {state}  managed" in "\n".join(lines)
        assert listed[drop.id] == state
        assert f"state: {state}" in limited.cli("drop", "show", drop.id).stdout.decode()
        page = drop.site.request("GET", f"{drop.page_url}/info", {"Dropoff-Code": str(drop.code)})
        assert json.loads(page.body)["state"] == state
    # Reopened it is not open, and the word for it is not either.
    done = limited.cli("drop", "reopen", drops["expired"].id)
    assert "not closed any more, but expired" in done.stderr.decode()


def test_version_is_printed_whatever_is_missing(tmp_path: Path) -> None:
    """Before anything else is read."""
    done = run_warm("--version", folder=tmp_path)
    assert (done.returncode, done.stdout.decode()) == (0, f"dropoff-tus {version('dropoff-tus')}\n")
