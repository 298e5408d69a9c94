"""A small server for the page whose engine is a stand-in: no upload, but the real page's address and headers."""

import html
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar, Self

from playwright.sync_api import Browser, Page

_ROOT = Path(__file__).resolve().parents[2]
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; worker-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
    " trusted-types dropoff"
)
STATES = [
    "01-code", "02-code-wrong", "03-code-throttled", "04-about", "05-about-sealed", "06-choose", "07-choose-files",
    "08-choose-folder", "09-review", "10-sending", "11-paused", "12-offline", "13-busy", "14-sending-failed",
    "15-sending-all", "16-checking", "17-done", "18-come-back", "19-closed", "20-expired", "21-unreadable",
    "22-brand-example", "23-too-many", "24-not-open", "25-failed-many", "26-matched", "27-no-answer",
    "28-cannot-seal", "29-code-waits", "30-nobody", "31-other-tab",
]  # fmt: skip
"""The states that the stand-in can show: the designed ones, and a few others of the engine."""
_NOW = "2026-11-30T16:50:00+01:00"
_LOGO = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40"><path fill="{ground}" d="M0 0h40v40H0z"/>'
    '<path fill="none" stroke="{ink}" stroke-width="3"'
    ' d="M12 6c0 14 16 14 16 28M28 6c0 14-16 14-16 28M14 11h12M14 29h12"/></svg>'
)
LOGO = _LOGO.format(ground="#0b5560", ink="#fff")
_BRAND = (
    ":root { --brand: #7a1f4b; --on-brand: #fff; --shade: #f8f2f5 }"
    " @media (prefers-color-scheme: dark) { :root { --brand: #f0a9c8; --on-brand: #3a0a20; --shade: #21191d } }"
)
_FILES = {
    "logo.svg": LOGO,
    "logo-dark.svg": _LOGO.format(ground="#86d3d6", ink="#06272a"),
    "brand-logo.svg": _LOGO.format(ground="#7a1f4b", ink="#fff"),
    "brand-logo-dark.svg": _LOGO.format(ground="#f0a9c8", ink="#3a0a20"),
    "brand.css": _BRAND,
}


class StatesSite:
    """Serves `/d/<id>?STATE` from `build/states`, which `make page-dev` builds."""

    BUILT: ClassVar[Path] = _ROOT / "build" / "states" / "states.html"

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def url(self, state: str) -> str:
        """Return the address that shows a state."""
        return f"http://127.0.0.1:{self._server.server_port}/d/f0f4c8a1-5b1e-4c55-9f0e-0d6c1f8f7a10?{state}"


def _page(state: str) -> str:
    """Fill the template as the server does."""
    brand = "brand-" if "brand" in state else ""
    nobody = {"institute": "", "email": None, "phone": None, "logo": None, "logoDark": None}
    page: dict[str, object] = {
        "institute": "Sankt Barbara Universitätsklinikum" if brand else "Noorderhaven Institute for Genetics",
        "email": "data@noorderhaven.example",
        "phone": "+31 50 555 0142",
        "logo": f"assets/{brand}logo.svg",
        "logoDark": f"assets/{brand}logo-dark.svg",
        "languages": ["en", "nl", "de", "fr", "es"],
    }
    if state == "30-nobody":
        page |= nobody
    head = '<link rel="icon" href="./assets/logo.svg">'
    if brand:
        head += '<link rel="stylesheet" href="./assets/brand.css">'
    text = StatesSite.BUILT.read_text(encoding="utf-8")
    text = text.replace("{{page}}", html.escape(json.dumps(page)))
    return text.replace("{{institute}}", html.escape(str(page["institute"]))).replace("<!--brand-->", head)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET."""

    def do_GET(self) -> None:
        """Answer with the page or one of its files."""
        path, _, query = self.path.partition("?")
        name = path.rpartition("/")[2]
        built = StatesSite.BUILT.parent / "assets" / name
        if not path.startswith("/d/assets/"):
            kind, body = "text/html; charset=utf-8", _page(query).encode()
        elif name in _FILES:
            kind, body = _TYPES[Path(name).suffix], _FILES[name].encode()
        elif built.is_file():
            kind, body = _TYPES[built.suffix], built.read_bytes()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", CSP)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
        """Say nothing."""


def open_page(
    browser: Browser,
    *,
    phone: bool = False,
    dark: bool = False,
    locale: str = "en-GB",
    width: int = 1280,
) -> Page:
    """Open an empty page of that size and colour, on the day of the designs."""
    context = browser.new_context(
        viewport={"width": 390, "height": 844} if phone else {"width": width, "height": 800},
        is_mobile=phone,
        has_touch=phone,
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        locale=locale,
        timezone_id="Europe/Amsterdam",
    )
    page = context.new_page()
    page.on("filechooser", lambda _: None)  # the browser has to be told in time that it opens no window
    page.clock.set_fixed_time(_NOW)
    return page


def show(page: Page, url: str) -> list[str]:
    """Show a state and return what the browser has against it, as the policy's refusals."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(url)
    page.wait_for_selector("main[data-state]")
    return said
