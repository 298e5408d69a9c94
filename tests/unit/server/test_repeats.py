"""Lines that anybody can cause are counted beyond so many, and no other is left out."""

import logging

import pytest

from server.repeats import MOST_OF_A_KIND, Repeats


def _record(**told: object) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "server.request", "levelno": logging.INFO, **told})


@pytest.mark.parametrize(
    "told",
    [
        {"method": "POST", "route": "dropoff", "status": 403, "code": "ERR_ACCESS_DENIED"},
        {"method": "HEAD", "route": "upload", "status": 404, "code": "ERR_NOT_FOUND", "upload_id": "0" * 32},
        {"method": "GET", "route": "page", "status": 200},
        {"status": 400, "kind": "BadHttpMessage"},
    ],
    ids=["wrong-code", "unknown-upload", "page", "malformed"],
)
def test_lines_that_anybody_can_cause_are_counted_beyond_so_many(
    told: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    """However they differ in a client's choices, they are of one kind; the count is logged once."""
    repeats = Repeats()
    written = sum(repeats.filter(_record(**told, request_id=str(number))) for number in range(5000))
    assert written == MOST_OF_A_KIND
    assert repeats.filter(_record(status=418)), "another kind"
    with caplog.at_level(logging.INFO, "server.repeats"):
        repeats.tell()
        repeats.tell()
    (line,) = caplog.records
    assert line.__dict__["count"] == 5000 - MOST_OF_A_KIND
    assert line.__dict__["status"] == told["status"]
    assert repeats.filter(_record(**told)), "the next minute"


@pytest.mark.parametrize("proof", ["upload_id", "token_id"])
def test_lines_of_whoever_was_let_in_are_all_written(proof: str) -> None:
    """Changes of an upload are in the log, line by line."""
    repeats = Repeats()
    told: dict[str, object] = {"method": "PATCH", "route": "upload", "status": 204, proof: "1"}
    assert all(repeats.filter(_record(**told)) for _ in range(5000))


def test_lines_of_bodies_that_were_cut_off_are_all_written() -> None:
    """Though they were refused: whoever looks for the reason needs each."""
    repeats = Repeats()
    told: dict[str, object] = {"method": "PATCH", "route": "upload", "status": 400, "upload_id": "1", "cut": "idle"}
    assert all(repeats.filter(_record(**told)) for _ in range(5000))
