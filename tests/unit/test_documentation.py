"""The documentation: every test, module and file that it names is there."""

import re
from pathlib import Path

import pytest

from server.settings.config import NAMES

_REPOSITORY = Path(__file__).resolve().parents[2]
_DOCUMENTS = sorted(
    str(path.relative_to(_REPOSITORY))
    for pattern in ("*.md", "docs/**/*.md", "nginx/*.md", "config.example.toml")
    for path in _REPOSITORY.glob(pattern)
)
_TESTS = {
    (str(path.relative_to(_REPOSITORY / "tests")), name)
    for path in (_REPOSITORY / "tests").rglob("*.py")
    if "node_modules" not in path.parts
    for name in re.findall(r"def (test_\w+)", path.read_text("utf-8"))
}
_NAMED = re.compile(r"`(?:(?:tests/)?([\w/]+\.py)(?:`, `|::))?(…[a-z]\w+|test_\w+)(…?)")
_TEST_FILE = re.compile(r"`(?:tests/)?((?:crash|e2e|faults|property|support|unit)/[\w/]+\.py)")
_DOTTED = re.compile(r"`((?:dropoff_tus|storage|server)\.[a-z_.]+)`")
_DOCUMENT = re.compile(r"\b(docs/[\w/-]+\.(?:md|sh))((?:, [A-Z][\w' ]*)*)")
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("document", _DOCUMENTS)
def test_documentation_names_tests_modules_and_files_that_exist(document: str) -> None:
    """An ellipsis stands for the rest of a test's name."""
    text = (_REPOSITORY / document).read_text("utf-8")
    for path, named, more in _NAMED.findall(text):
        start = "test_" if named.startswith("test_") else ".*"
        name = re.compile(start + re.escape(named.removeprefix("…").removeprefix("test_")) + (".*" if more else ""))
        assert any(path in {"", where} and name.fullmatch(test) for where, test in _TESTS), (path, named)
    for path in _TEST_FILE.findall(text):
        assert (_REPOSITORY / "tests" / path).exists(), path
    for dotted in _DOTTED.findall(text):
        module, (section, _, key) = _REPOSITORY / dotted.replace(".", "/"), dotted.partition(".")
        assert module.is_dir() or module.with_suffix(".py").exists() or key in NAMES.get(section, {}), dotted
    for link in _LINK.findall(text):
        assert ((_REPOSITORY / document).parent / link).exists(), link


def test_code_and_configuration_name_documents_and_chapters_that_exist() -> None:
    """As `Source: docs/reference/format.md, Log, Recovery.`, or in a sentence for the operator."""
    sources = [
        path for top in ("dropoff_tus", "server", "storage", "tests") for path in (_REPOSITORY / top).rglob("*.py")
    ]
    for source in (*sources, _REPOSITORY / "config.example.toml"):
        if "node_modules" in source.parts:
            continue
        for document, chapters in _DOCUMENT.findall(source.read_text("utf-8")):
            assert (_REPOSITORY / document).is_file(), (source, document)
            text = (_REPOSITORY / document).read_text("utf-8")
            for chapter in chapters.split(", ")[1:]:
                assert re.search(rf"^#+ {re.escape(chapter.strip())}$", text, re.MULTILINE), (source, document, chapter)
