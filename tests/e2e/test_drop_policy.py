"""Conditions of `drop create` on uploads: a window, types and names; and the reports of mistakes."""

import json

import pytest

from tests.support.server_process import ServerProcess
from tests.support.tus_raw import metadata


def test_drop_off_that_is_not_open_yet_answers_403(server: ServerProcess) -> None:
    """With the code right; and the operator sees when it begins."""
    drop = server.create_drop("--opens", "1h", "--expires", "2h")
    shown = server.cli_json("drop", "show", drop.id)
    assert shown["opens_at"] < shown["expires_at"]
    answer = drop.site.post({"Upload-Length": "1"})
    assert (answer.status, answer.error_code) == (403, "ERR_DROPOFF_NOT_OPEN")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (metadata(filename="a.CSV", filetype="text/csv"), 201),
        (metadata(name="b.csv", type="TEXT/CSV; charset=utf-8"), 201),
        (metadata(filename="picture.csv", filetype="image/png"), 201),
        (metadata(filename="a.csv", filetype="text/plain"), 422),
        (metadata(filename="a.txt", filetype="text/csv"), 422),
        (metadata(filetype="text/csv"), 422),
        (metadata(filename="a.csv"), 422),
        (None, 422),
    ],
    ids=["both", "other-keys", "wildcard", "wrong-type", "wrong-name", "no-name", "no-type", "nothing"],
)
def test_drop_off_takes_the_types_and_names_it_was_made_for(
    server: ServerProcess, sent: str | None, status: int
) -> None:
    """The client's words on the file are compared with the lists, without case."""
    options = ("--allow-type", "text/csv", "--allow-type", "image/*", "--allow-name", "*.csv")
    answer = server.create_drop(*options).site.post({"Upload-Length": "1", "Upload-Metadata": sent})
    assert answer.status == status
    assert status == 201 or answer.error_code == "ERR_TYPE_NOT_ALLOWED"


def test_refusal_tells_the_client_what_is_taken_and_nobody_else(server: ServerProcess) -> None:
    """Type and name that came are in the answer, and in no log; a name of macOS is taken, and kept as it was sent."""
    site = server.create_drop("--allow-name", "gr\xfc\xdfe*.csv").site
    name = "private-marker.exe"
    answer = site.post({"Upload-Length": "1", "Upload-Metadata": metadata(filename=name)})
    assert (answer.status, answer.error_code) == (422, "ERR_TYPE_NOT_ALLOWED")
    assert "gr\xfc\xdfe*.csv" in answer.body.decode()
    assert name in answer.body.decode()
    assert name not in server.logged()
    sent = metadata(filename="GRU\u0308SSE.csv")
    url = site.create(1, {"Upload-Metadata": sent})
    assert site.head(url).needed("Upload-Metadata") == sent


@pytest.mark.parametrize(
    "options",
    [
        ("--opens", "yesterday"),
        ("--opens", "2d", "--expires", "1d"),
        ("--allow-type", "csv"),
        ("--allow-type", " text/csv"),
        ("--allow-name", "*.csv", "--allow-name", ""),
        ("--allow-type", "text/csv,application/zip"),
        ("--allow-name", ".csv"),
    ],
    ids=["no-time", "after-expiry", "no-type", "spaces", "empty", "several", "ending"],
)
def test_drop_create_with_a_mistake_says_which_and_makes_nothing(
    server: ServerProcess, options: tuple[str, ...]
) -> None:
    """One sentence that names the option."""
    before = len(server.cli_json("drop", "list"))
    done = server.cli("drop", "create", "--name", "x", *options, check=False)
    assert done.returncode != 0
    assert options[0].encode() in done.stderr
    assert b"Traceback" not in done.stderr
    assert len(server.cli_json("drop", "list")) == before


def test_retention_and_contact_are_shown(server: ServerProcess) -> None:
    """To the operator, and to everybody who has the code; by default there is none."""
    plain, drop = server.create_drop(), server.create_drop("--retain", "90d", "--contact", "Ada, room 7")
    for one, retain_seconds, contact in ((plain, 0, ""), (drop, 90 * 86400, "Ada, room 7")):
        shown = server.cli_json("drop", "show", one.id)
        assert (shown["retain_seconds"], shown["contact"]) == (retain_seconds, contact)
        answer = one.site.request("GET", f"/d/{one.id}/info", {"Dropoff-Code": one.code})
        told = json.loads(answer.body)
        assert (told["retain_seconds"], told["contact"]) == (retain_seconds or None, contact or None)
