"""Fuzz one parser with coverage to guide it, by hand: atheris is not among the dependencies, and not on every Python.

    pip install atheris
    python -m tests.fuzz log -runs=200000

The parsers are those of `tests.support.fuzz_targets`, which the default tests feed too. What follows the name goes to
libFuzzer. It stops at the first exception that is not a documented one, and leaves the input in a file `crash-…`.
"""

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any


def main(arguments: list[str]) -> None:
    """Run libFuzzer on a target. Its seeds are the corpus to begin with."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["dropoff_tus", "storage"]):
        fuzz_targets = importlib.import_module("tests.support.fuzz_targets")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        targets = fuzz_targets.make_targets(Path(folder))
        if not arguments or arguments[0] not in targets:
            sys.exit(f"usage: python -m tests.fuzz {{{','.join(targets)}}} [options of libFuzzer]")
        target = targets[arguments[0]]
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(target.seeds):
            (corpus / str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], str(corpus), *arguments[1:]], target.run)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
