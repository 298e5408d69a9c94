"""Lays out what `make docs` builds the site from: the documents as the repository has them, and their navigation.

The folders are links, so that every link between documents, in or out of docs/, is the same as on a forge. The
navigation is that of docs/README.md: a part for each chapter, a page for each document in its table.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = REPOSITORY / "build" / "docs"
_SHOWN = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "README.md",
    "SECURITY.md",
    "config.example.toml",
    "docs",
    "nginx",
)
_CHAPTER = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#:]+\.md)\)")


def _linked(document: Path, text: str) -> list[str]:
    found = [(document.parent / link).resolve().relative_to(REPOSITORY) for link in _LINK.findall(text)]
    return list(dict.fromkeys(str(path) for path in found))


def navigation() -> list[Any]:
    """Return MkDocs' `nav`: parts with their pages; what a page of them lists is behind it."""
    index, decisions = REPOSITORY / "docs" / "README.md", REPOSITORY / "docs" / "adr" / "README.md"
    parts: list[Any] = ["README.md", {"Contents": "docs/README.md"}]
    seen: set[str] = set()
    for chapter, text in _CHAPTER.findall(index.read_text("utf-8")):
        pages = [page for page in _linked(index, text) if page not in seen]
        seen.update(pages)
        parts.append({chapter: pages})
    return [*parts, {"Decisions": _linked(decisions, decisions.read_text("utf-8"))}, {"Changes": "CHANGELOG.md"}]


def main() -> None:
    """Make build/docs anew: `pages` with links to the documents, and `mkdocs.yml`."""
    shutil.rmtree(BUILD, ignore_errors=True)
    (pages := BUILD / "pages").mkdir(parents=True)
    for name in _SHOWN:
        (pages / name).symlink_to(REPOSITORY / name)
    more = {"INHERIT": "../../docs/mkdocs.yml", "docs_dir": "pages", "site_dir": "site", "nav": navigation()}
    (BUILD / "mkdocs.yml").write_text(json.dumps(more, indent=2), "utf-8")


if __name__ == "__main__":
    main()
