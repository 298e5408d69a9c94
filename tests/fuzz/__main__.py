"""Fuzz one parser with coverage to guide it, by hand: atheris is not among the dependencies, and not on every Python.

    pip install atheris
    python -m tests.fuzz log -runs=200000

The parsers are those of `tests.support.fuzz_targets`, which the default tests feed too. The other arguments go to
libFuzzer. It stops at the first exception that is not a documented one, and leaves the input in a file `crash-…`.
"""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_FOLDER = "DROPOFF_TUS_FUZZ_FOLDER"


def main(arguments: list[str]) -> int:
    """Run libFuzzer in a process of its own, which it ends without coming back, and remove what that leaves."""
    # Ending this process, by any orderly signal, ends that one too, and the folder goes.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        command = [sys.executable, "-m", "tests.fuzz", *arguments]
        return subprocess.run(command, env={**os.environ, _FOLDER: folder}, check=False).returncode


def fuzz(folder: Path, arguments: list[str]) -> None:
    """Run libFuzzer on a target. Its seeds are the corpus to begin with."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["dropoff_tus", "storage"]):
        fuzz_targets = importlib.import_module("tests.support.fuzz_targets")
    targets = fuzz_targets.make_targets(folder)
    if not arguments or arguments[0] not in targets:
        sys.exit(f"usage: python -m tests.fuzz {{{','.join(targets)}}} [options of libFuzzer]")
    target = targets[arguments[0]]
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([sys.argv[0], str(corpus), *arguments[1:]], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    if _FOLDER in os.environ:
        fuzz(Path(os.environ[_FOLDER]), sys.argv[1:])
    else:
        sys.exit(main(sys.argv[1:]))
