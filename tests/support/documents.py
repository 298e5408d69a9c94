"""The blocks of commands in the documentation, and the marks that say which test runs them."""

import re
from collections.abc import Iterator
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]
MARK = re.compile(r"(run|run in the background)|run by (tests/[\w/]+\.py)|not run: (.+)")
COMMANDS = frozenset({"sh", "console"})
_PIECE = re.compile(r"^( *)(?:<!-- (.*?) -->|```(\w*)\n(.*?)^ *```)$", re.DOTALL | re.MULTILINE)


def blocks(page: Path) -> Iterator[tuple[re.Match[str] | None, str, str]]:
    """Yield the blocks of a page: the last mark above, as `MARK` takes it apart, the language, the text."""
    mark = None
    for indent, comment, language, block in _PIECE.findall(page.read_text("utf-8")):
        if comment:
            mark = MARK.fullmatch(comment) or mark
        else:
            yield mark, language, re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)


def run(page: Path) -> list[tuple[str, str]]:
    """Return the blocks that `<!-- run -->` or `<!-- run in the background -->` is for: that mark, and the commands."""
    return [(mark[1], text) for mark, language, text in blocks(page) if mark and mark[1] and language in COMMANDS]


def run_by(test: str, page: str) -> list[str]:
    """Return the blocks of a page, as `docs/…`, whose mark names the test in whose file this is called.

    A test calls `run_by(__file__, "docs/…")` and runs what it gets, so a changed block is run as it is now, and an
    added one does not fit. tests/unit/test_documentation.py looks for that call in each test that a mark names.
    """
    name = str(Path(test).relative_to(_REPOSITORY))
    return [
        text for mark, language, text in blocks(_REPOSITORY / page) if mark and mark[2] == name and language in COMMANDS
    ]
