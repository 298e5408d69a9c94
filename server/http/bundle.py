"""The upload page as it is served: the built page with the institute's name, logo and colours, in memory.

Only what is in here can be reached, by its name, so no path leads anywhere else.
"""

import hashlib
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.abc import Traversable
from importlib.resources import files
from pathlib import Path

from server.settings.page import PageSection

CODINGS = {"br": ".br", "gzip": ".gz"}
"""Of content, by preference, and how the build names what it made of an asset."""
_TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_LOGO_HEADS = {".svg": b"<svg", ".png": b"\x89PNG\r\n\x1a\n"}
_LOGO_HEAD_BYTES = 4096
_MOST_LOGO_BYTES = 256 << 10
_PRIMARY = re.compile(r"(?:^|,)\s*([a-z]+)")
"""The language in each tag of Accept-Language, without its country. Browsers send the most wanted first."""
_MARK = re.compile(r"\{\{institute\}\}|\{\{page\}\}|<!--brand-->")
_NOT_BUILT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex"><title>The upload page is not built</title></head><body><main>
<h1>The upload page is not built</h1>
<p>This address receives files, but the page for it was not built on this server. <code>make page</code> builds it, and
the server shows it after its next start.</p>
<p>Until then any tus client can upload, to this address with <code>/files/</code> in place of <code>/d/</code>. The
code that came with the address goes into the header <code>Dropoff-Code</code>.</p>
</main></body></html>
"""


class PageError(Exception):
    """The page cannot be made as the configuration says; the text has the key, and what to write."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page, and the same compressed, by the name of the coding."""

    content_type: str
    content: bytes
    coded: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Bundle:
    """The page, its assets by name, and which of them has the words of each language, the configured first."""

    page: bytes
    assets: Mapping[str, Asset]
    words: Mapping[str, str] = field(default_factory=dict)

    def words_for(self, accepted: str) -> str | None:
        """Return the asset that the page will ask for next, as it chooses itself; None if nothing was built."""
        wanted = (match[1] for match in _PRIMARY.finditer(accepted.lower()))
        return next((self.words[tag] for tag in wanted if tag in self.words), next(iter(self.words.values()), None))


def read_bundle(section: PageSection, built: Traversable | None = None) -> Bundle:
    """Read what was built, in an installed package too, and make it the institute's.

    Args:
        section: The configuration of the page.
        built: Where to find what was built; None: in this package.

    Raises:
        PageError: A logo cannot be used.
    """
    built = built or files("server") / "web" / "built"
    own = dict(_own_assets(section))
    names = {name.partition("-")[0]: name for name in own}
    try:
        template = (built / "index.html").read_text("utf-8")
        made = {item.name: item.read_bytes() for item in (built / "assets").iterdir()}
    except OSError:
        return Bundle(_NOT_BUILT.encode(), {})
    assets = {
        name: Asset(
            _TYPES.get(Path(name).suffix, "application/octet-stream"),
            content,
            {coding: made[name + suffix] for coding, suffix in CODINGS.items() if name + suffix in made},
        )
        for name, content in made.items()
        if not name.endswith(tuple(CODINGS.values()))
    }
    links = ""
    if "brand" in names:
        links += f'<link rel="stylesheet" href="./assets/{names["brand"]}">'
    if "logo" in names:
        links += f'<link rel="icon" href="./assets/{names["logo"]}">'
    values = {
        "{{institute}}": html.escape(section.institute),
        "{{page}}": html.escape(json.dumps(_told(section, names))),
        "<!--brand-->": links,
    }
    words = {tag: name for tag in section.languages for name in assets if name.startswith(f"{tag}-")}
    return Bundle(_MARK.sub(lambda mark: values[mark[0]], template).encode(), assets | own, words)


def _told(section: PageSection, names: Mapping[str, str]) -> dict[str, object]:
    """Return what the page knows before the code; see server/web/page."""
    return {
        "institute": section.institute,
        "email": section.email,
        "phone": section.phone or None,
        "logo": f"assets/{names['logo']}" if "logo" in names else None,
        "logoDark": f"assets/{names['logo_dark']}" if "logo_dark" in names else None,
        "languages": section.languages,
    }


def _own_assets(section: PageSection) -> Iterator[tuple[str, Asset]]:
    """Make the institute's files, each with its hash in its name."""
    style = _style(section)
    # The page's own colours are in its own style already.
    if style != _style(PageSection()):
        yield _hashed("brand", ".css", style.encode())
    for key, path in (("logo", section.logo), ("logo_dark", section.logo_dark)):
        if path is not None:
            yield _hashed(key, path.suffix.lower(), _logo(f"page.{key}", path))


def _hashed(stem: str, suffix: str, content: bytes) -> tuple[str, Asset]:
    name = f"{stem}-{hashlib.sha256(content).hexdigest()[:12]}{suffix}"
    return name, Asset(_TYPES[suffix], content, {})


def _style(section: PageSection) -> str:
    light = f"--brand: {section.brand}; --on-brand: {section.on_brand}; --shade: {section.shade}"
    dark = f"--brand: {section.brand_dark}; --on-brand: {section.on_brand_dark}; --shade: {section.shade_dark}"
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


def _logo(key: str, path: Path) -> bytes:
    """Read a logo.

    Raises:
        PageError: It cannot be read, is too large, or no picture that browsers show.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PageError(f"{key}: cannot read {path}: {error.strerror}") from None
    if _LOGO_HEADS.get(path.suffix.lower(), b"\0" * _LOGO_HEAD_BYTES) not in content[:_LOGO_HEAD_BYTES]:
        raise PageError(f"{key}: {path} is no picture that the page can show; write the name of an .svg or .png file")
    if len(content) > _MOST_LOGO_BYTES:
        raise PageError(
            f"{key}: {path} has more than {_MOST_LOGO_BYTES >> 10} KiB; make a smaller one, it is shown small"
        )
    return content
