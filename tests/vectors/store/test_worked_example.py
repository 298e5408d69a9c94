"""The worked example of docs/reference/format.md is true: its commands are run, and print what the document says."""

import subprocess
from pathlib import Path

from tests.support.documents import run_by
from tests.support.programs import require_program
from tests.vectors.store.stored import FOLDER


def _steps() -> list[tuple[str, str]]:
    """Return the document's commands, each with what it prints."""
    steps: list[tuple[str, str]] = []
    for block in run_by(__file__, "docs/reference/format.md"):
        for line in block.splitlines(keepends=True):
            if line.startswith("$ "):
                steps.append((line[2:], ""))
            elif line.startswith("> "):
                steps[-1] = (steps[-1][0] + line[2:], "")
            else:
                steps[-1] = (steps[-1][0], steps[-1][1] + line)
    return steps


def test_worked_example_prints_what_the_document_says(tmp_path: Path) -> None:
    """A reader who follows it by hand sees exactly this."""
    for name in ("age", "openssl"):
        require_program(name)
    steps = _steps()
    assert len(steps) > 20
    script = f"set -euo pipefail\nwork={tmp_path}\n" + "".join(f"{command}printf '\\0'\n" for command, _ in steps)
    done = subprocess.run(["bash"], input=script.encode(), capture_output=True, cwd=FOLDER, check=False)
    assert done.returncode == 0, done.stderr.decode()
    printed = done.stdout.decode().split("\0")[:-1]
    assert [(command, text) for (command, _), text in zip(steps, printed, strict=True)] == steps
