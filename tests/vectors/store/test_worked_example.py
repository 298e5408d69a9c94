"""The worked example of docs/reference/format.md is true: its commands are run, and print what the document says."""

import re
import subprocess
from pathlib import Path

from tests.support.programs import require_program
from tests.vectors.store.stored import FOLDER

_DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "reference" / "format.md"


def _steps() -> list[tuple[str, str]]:
    """Return the document's commands, each with what it prints."""
    _, _, chapter = _DOCUMENT.read_text("utf-8").partition("\n## Worked example\n")
    steps: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", chapter, re.MULTILINE | re.DOTALL):
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
