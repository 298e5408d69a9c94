"""The documentation: every test, module, file, chapter and command that it names is there, and every command is run."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.settings.config import NAMES
from tests.support.documents import COMMANDS, blocks
from tests.support.reference import command_options, commands
from tests.support.site import navigation

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
_ANCHOR = re.compile(r"\]\(([^)#:]*\.md)?#([^)]+)\)")
_FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
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


def test_links_lead_to_chapters_that_exist() -> None:
    """By the anchors that a forge and the site make of headings."""
    for document in _DOCUMENTS:
        text = (_REPOSITORY / document).read_text("utf-8")
        for path, anchor in _ANCHOR.findall(text):
            target = (_REPOSITORY / document).parent / path if path else _REPOSITORY / document
            assert anchor in _anchors(target), (document, path, anchor)


def _anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", document.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_navigation_of_the_site_has_every_page() -> None:
    """As docs/README.md lists them; a page that is in no table there is found by nobody."""
    shown = json.dumps(navigation())
    assert [document for document in _DOCUMENTS if document.endswith(".md") and f'"{document}"' not in shown] == []


# ---- commands -------------------------------------------------------------------------------------------------------

_PAGES = [document for document in _DOCUMENTS if document.endswith(".md") and not document.endswith("commands.md")]


@pytest.mark.parametrize("document", _PAGES)
def test_blocks_of_commands_are_run_or_say_why_not(document: str) -> None:
    """Every block names its language, and the last mark above one of commands holds for it.

    `<!-- run -->` has tests/e2e/test_docs.py run it; `<!-- run by tests/… -->` names another test, which takes the
    text of its blocks by `run_by`, so that it fails if they change; `<!-- not run: … -->` says why none can.
    """
    for mark, language, text in blocks(_REPOSITORY / document):
        assert language, f"a block names no language, such as sh or text:\n{text}"
        if language in COMMANDS:
            assert mark is not None, f"no mark says who runs this:\n{text}"
            if mark[2] is not None:
                test = (_REPOSITORY / mark[2]).read_text("utf-8")
                assert re.search(rf'run_by\(__file__, "{document}"\)', test), f"{mark[2]} does not take:\n{text}"


def test_targets_and_tests_in_commands_exist() -> None:
    """In what is too long to be run here as well: `make …`, and `pytest …` with `-k`."""
    targets = set(re.findall(r"^([a-z][\w-]*):", (_REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE))
    seen = 0
    for document in _PAGES:
        for _, language, text in blocks(_REPOSITORY / document):
            for line in text.splitlines() if language in COMMANDS else ():
                seen += 1
                assert set(re.findall(r"(?:^|&& )make ([a-z][\w-]*)", line)) <= targets, (document, line)
                tests = re.findall(r"\btests/([\w/]+\.py)", line)
                chosen = re.search(r" -k (\w+)", line)
                for test in tests:
                    names = [name for where, name in _TESTS if where == test]
                    assert [name for name in names if chosen is None or chosen[1] in name], (document, line)
    assert seen > 100


def test_documented_commands_and_options_exist() -> None:
    """In blocks and in the text, wherever `dropoff-tus` or a command of two words begins it."""
    known = {name: {*command_options(command)} for name, command in commands().items()}
    seen = 0
    # Lines of the store's files begin with the program's name too.
    for document in (page for page in _PAGES if page != "docs/reference/format.md"):
        for words in _typed((_REPOSITORY / document).read_text("utf-8"), known):
            if len(words) == 1 and any(name.startswith(f"{words[0]} ") for name in known):
                continue  # a whole group
            name = next((name for name in (" ".join(words[:2]), words[0]) if name in known), None)
            assert name is not None, (document, words)
            options = {word.partition("=")[0] for word in words if re.match(r"--[a-z]", word)}
            assert options <= known[name] | {"--config", "--help"}, (document, name, options - known[name])
            seen += 1
    assert seen > 100


def _typed(text: str, known: dict[str, set[str]]) -> Iterator[list[str]]:
    """Yield the commands of a document, without the program's name and what comes before or behind them."""
    pairs = {name for name in known if " " in name}
    pieces = re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))
    for block in _FENCE.findall(text):
        pieces += block.replace("\\\n", " ").splitlines()
    for piece in pieces:
        for part in re.split(r"[|;&#<>()]| -- ", piece):
            words = [word.strip("'\"") for word in part.split()]
            if "dropoff-tus" in words:
                words = words[words.index("dropoff-tus") + 1 :]
                while words and words[0] in {"--config", "--as"}:
                    words = words[2:]
                if words and re.fullmatch(r"[a-z][a-z-]*", words[0]):
                    yield words
            elif " ".join(words[:2]) in pairs:
                yield words
