"""The supervisor of workers, where a signal comes at a bad moment."""

import subprocess
import sys

import pytest

from tests.support.server_process import REPOSITORY

_PROGRAM = """
import os, signal, sys, time
from server.workers import Supervisor

def serve(worker, status):
    os.write(worker.life, b".")
    time.sleep(60)

real, when, forks = os.fork, sys.argv[1], []

def fork():
    # As the kernel may deliver it: the last moment before a worker is there, or the first one after.
    if when == "before":
        os.kill(os.getpid(), signal.SIGTERM)
    pid = real()
    if pid:
        forks.append(pid)
        if when == "after":
            os.kill(os.getpid(), signal.SIGTERM)
    return pid

os.fork = fork
supervisor = Supervisor(2, (), (), serve, lambda: None, lambda: False)
if when == "decided":
    supervisor._stopping = True
code = supervisor.run()
print(code, len(forks))
"""


@pytest.mark.parametrize(("when", "forks"), [("before", 1), ("after", 1), ("decided", 0)])
def test_stop_while_a_worker_is_begun_ends_it_too(when: str, forks: int) -> None:
    """And begins none after it."""
    command = [sys.executable, "-c", _PROGRAM, when]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"0 {forks}\n", done.stderr
