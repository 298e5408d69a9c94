"""`python -m tests.fuzz` removes its folder however the fuzzer ends, which it does without coming back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[3]
_STAND_IN = """
import contextlib, os, pathlib, time
instrument_imports = lambda include: contextlib.nullcontext()
def Setup(arguments, run):
    global corpus
    corpus = pathlib.Path(arguments[1])
def Fuzz():
    assert list(corpus.iterdir())
    pathlib.Path(os.environ["READY"]).write_text(str(os.getpid()))
    if os.environ["ENDS"] == "by itself":
        os._exit(77)
    time.sleep(60)
"""
"""atheris is not there on every Python; as the real one, this ends its process from inside and runs no handler."""


@pytest.mark.parametrize(
    ("ends", "number", "status"),
    [("by itself", None, 77), ("never", signal.SIGTERM, 143), ("never", signal.SIGINT, 130)],
    ids=["end", "terminated", "interrupted"],
)
def test_fuzzing_leaves_no_folder_behind(tmp_path: Path, ends: str, number: signal.Signals | None, status: int) -> None:
    """Neither at its end nor when it is ended, and the fuzzer goes with it."""
    (tmp_path / "atheris.py").write_text(_STAND_IN)
    folders, ready = tmp_path / "folders", tmp_path / "ready"
    folders.mkdir()
    environment = {**os.environ, "TMPDIR": str(folders), "READY": str(ready), "ENDS": ends}
    environment["PYTHONPATH"] = f"{_ROOT}{os.pathsep}{tmp_path}"
    process = subprocess.Popen([sys.executable, "-m", "tests.fuzz", "headers"], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 60
    while not ready.exists() or not ready.read_text():
        assert process.poll() is None or ends == "by itself"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    if number is not None:
        assert len(list(folders.iterdir())) == 1
        process.send_signal(number)
    assert process.wait(30) == status
    assert list(folders.iterdir()) == []
    while Path(f"/proc/{ready.read_text()}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
