"""The blocks of commands in the documentation, and the marks that say which test runs them."""

import re
from pathlib import Path

MARK = re.compile(r"(run|run in the background)|run by (tests/[\w/]+\.py)|not run: (.+)")
COMMANDS = frozenset({"sh", "console"})
_PIECE = re.compile(r"^( *)(?:<!-- (.*?) -->|```sh\n(.*?)^ *```)$", re.DOTALL | re.MULTILINE)


def blocks(document: Path) -> list[tuple[str, str]]:
    """Return the blocks that `<!-- run -->` or `<!-- run in the background -->` is for: that mark, and the commands."""
    mark, found = None, []
    for indent, comment, block in _PIECE.findall(document.read_text("utf-8")):
        if comment:
            mark = MARK.fullmatch(comment) or mark
        elif mark is not None and mark[1]:
            found.append((mark[1], re.sub(rf"^{indent}", "", block, flags=re.MULTILINE)))
    return found
