"""The built page: small enough for a bad line, nothing of strangers, nothing inline, nothing of the tests."""

import gzip
import re
from pathlib import Path

_BUDGET = 60_000


def _first(built: Path) -> list[Path]:
    """Return what the first load fetches, with the largest language."""
    html = (built / "index.html").read_text(encoding="utf-8")
    named = [built / name for name in re.findall(r'(?:src|href)="\./([^"]+)"', html)]
    words = [path for path in (built / "assets").glob("*.js") if re.match(r"(en|nl|de|fr|es)-", path.name)]
    assert len(words) == 5, "each language is a file of its own"
    return [built / "index.html", *named, max(words, key=lambda path: len(gzip.compress(path.read_bytes())))]


def test_first_load_is_within_budget(built: Path) -> None:
    """The first load is 60 KB at most, compressed."""
    sizes = {path.name: len(gzip.compress(path.read_bytes(), 9)) for path in _first(built)}
    assert len(sizes) == 5  # page, icon, script, style, words
    assert sum(sizes.values()) <= _BUDGET, sizes


def test_asset_has_compressed_copies_and_a_hash(built: Path) -> None:
    """Each asset has a .gz and a .br beside it, and the first is the same bytes."""
    assets = [path for path in (built / "assets").iterdir() if path.suffix in {".js", ".css", ".svg"}]
    assert assets
    for path in assets:
        assert gzip.decompress(path.with_name(path.name + ".gz").read_bytes()) == path.read_bytes()
        assert path.with_name(path.name + ".br").stat().st_size < path.stat().st_size
        assert re.fullmatch(r"[\w-]+-[\w-]{8}\.(js|css|svg)", path.name), "a name holds a hash"


def test_page_has_nothing_inline_and_nothing_of_tests(built: Path) -> None:
    """The page has no script or style of its own, no data: address, and no source map leads anywhere."""
    html = (built / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|data:|https?:", html)
    assert {"{{page}}", "{{institute}}", "<!--brand-->"} <= set(re.findall(r"\{\{\w+\}\}|<!--\w+-->", html))
    for path in (built / "assets").glob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert "sourceMappingURL" not in text
        assert "genomes-batch" not in text, "the stand-in for tests is not shipped"
        assert not re.search(r"\beval\(|new Function\(|\.innerHTML=|document\.write\(", _without_preact(text)), (
            path.name
        )


def _without_preact(text: str) -> str:
    """Take out Preact's way to set markup, which only `dangerouslySetInnerHTML` reaches: the page has none."""
    return re.sub(r"\w+\.innerHTML=\w+\.__html", "", text)
