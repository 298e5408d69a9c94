"""The page as it is served: the built one, with the institute of the configuration."""

import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from server.http.bundle import PageError, read_bundle
from server.settings.page import PageSection

REPOSITORY = Path(__file__).resolve().parents[4]
_TEMPLATE = (REPOSITORY / "server/web/page/index.html").read_text("utf-8").replace("</head>", "<!--brand-->\n</head>")
_PNG = b"\x89PNG\r\n\x1a\n and more"
_SVG = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Make what a build leaves."""
    folder = tmp_path / "built"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text(_TEMPLATE, "utf-8")
    (folder / "licenses.md").write_text("of others", "utf-8")
    for name, content in {"a-1.js": b"js", "a-1.js.br": b"br", "a-1.js.gz": b"gz", "b-2.css": b"css"}.items():
        (folder / "assets" / name).write_bytes(content)
    return folder


def _section(**keys: object) -> PageSection:
    return PageSection.model_validate(keys, context={"folder": "/"})


def _told(page: bytes) -> dict[str, Any]:
    found = re.search(r'<meta name="dropoff" content="([^"]*)">', page.decode())
    assert found is not None
    return dict(json.loads(html.unescape(found[1])))


def test_page_has_the_institute_and_nothing_else(built: Path) -> None:
    """Its name and contact, whatever characters they have, and the languages in their order."""
    name = "\"><script>alert(1)</script> {{page}} <!--brand--> G\xf6ttingen & Sons's"
    section = _section(institute=name, email="a@example.org", phone='+31 50 "555"', languages=("nl", "en"))
    page = read_bundle(section, built).page
    assert _told(page) == {
        "institute": name,
        "email": "a@example.org",
        "phone": '+31 50 "555"',
        "logo": None,
        "logoDark": None,
        "languages": ["nl", "en"],
    }
    text = page.decode()
    assert f"<title>{html.escape(name)}</title>" in text
    assert "<script>alert" not in text
    assert "stylesheet" not in text


def test_assets_are_what_was_built_with_what_was_compressed_beside(built: Path) -> None:
    """The compressed forms are no files of their own, and nothing beside the folder is one."""
    assets = read_bundle(PageSection(), built).assets
    assert {name: (asset.content_type, asset.content, dict(asset.coded)) for name, asset in assets.items()} == {
        "a-1.js": ("text/javascript; charset=utf-8", b"js", {"br": b"br", "gzip": b"gz"}),
        "b-2.css": ("text/css; charset=utf-8", b"css", {}),
    }


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("en-GB,en;q=0.9,nl;q=0.8", "en"),
        ("fr, NL-be;q=0.7", "nl"),
        ("tlh", "nl"),
        ("*", "nl"),
        ("", "nl"),
        ('"en", enx', "nl"),
    ],
)
def test_words_are_those_that_the_page_will_choose(built: Path, accepted: str, language: str) -> None:
    """The first language of the browser that the institute offers, else the institute's first."""
    for name in ("en-1.js", "nl-2.js", "fr-3.js", "nlx-4.js"):
        (built / "assets" / name).write_bytes(b"words")
    bundle = read_bundle(_section(languages=("nl", "en")), built)
    assert bundle.words_for(accepted) == {"en": "en-1.js", "nl": "nl-2.js"}[language]


def test_logo_and_colours_become_hashed_assets_that_the_page_names(built: Path, tmp_path: Path) -> None:
    """Another content has another name, so that browsers may keep each for ever."""
    light, dark = tmp_path / "logo.SVG", tmp_path / "night.png"
    light.write_bytes(_SVG)
    dark.write_bytes(_PNG)
    plum = {"brand": "#7a1f4b", "brand_dark": "#f0a9c8", "on_brand_dark": "#3a0a20", "shade": "#f8f2f5"}
    bundle = read_bundle(_section(logo=str(light), logo_dark=str(dark), **plum), built)
    told = _told(bundle.page)
    logo, night = told["logo"].removeprefix("assets/"), told["logoDark"].removeprefix("assets/")
    assert (bundle.assets[logo].content, bundle.assets[logo].content_type) == (_SVG, "image/svg+xml")
    assert (bundle.assets[night].content, bundle.assets[night].content_type) == (_PNG, "image/png")
    assert hashlib.sha256(_SVG).hexdigest()[:12] in logo
    links = re.findall(r'<link rel="(\w+)" href="./assets/([^"]*)">', bundle.page.decode())
    assert [kind for kind, _ in links] == ["stylesheet", "icon"]
    assert links[1][1] == logo
    style = bundle.assets[links[0][1]]
    assert style.content_type.startswith("text/css")
    assert style.content.decode() == (
        ":root { --brand: #7a1f4b; --on-brand: #ffffff; --shade: #f8f2f5 }\n"
        "@media (prefers-color-scheme: dark) "
        "{ :root { --brand: #f0a9c8; --on-brand: #3a0a20; --shade: #18211f } }\n"
    )
    light.write_bytes(_SVG + b"\n")
    assert logo not in read_bundle(_section(logo=str(light)), built).assets


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("logo.svg", None, "cannot read"),
        ("logo.svg", b"<html>", "is no picture"),
        ("logo.png", _SVG, "is no picture"),
        ("logo.gif", b"GIF89a", "is no picture"),
        ("logo", _PNG, "is no picture"),
        ("logo.png", _PNG + bytes(300_000), "has more than 256 KiB"),
    ],
    ids=["missing", "no-svg", "no-png", "kind", "no-ending", "large"],
)
def test_logo_that_cannot_be_shown_is_refused(
    built: Path, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    """With its key, and a sentence."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PageError, match=rf"^page\.logo: .*{words}"):
        read_bundle(_section(logo=str(tmp_path / name)), built)


def test_page_that_was_not_built_says_so(tmp_path: Path) -> None:
    """A checkout without Node, say: one page, no assets, and the other way to upload."""
    bundle = read_bundle(_section(institute="Institute"), tmp_path / "nothing")
    assert b"make page" in bundle.page
    assert b"Dropoff-Code" in bundle.page
    assert not bundle.assets
