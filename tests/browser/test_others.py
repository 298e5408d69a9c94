"""Pages of others, at another origin: Uppy's Dashboard and plain tus-js-client upload to a drop-off unchanged."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from tests.browser.visitor import Visitor, file_of, received, sha256_of, visiting
from tests.support.programs import missing_allowed
from tests.support.server_process import Drop, ServerProcess

pytestmark = pytest.mark.timeout(120)
_MODULES = Path(__file__).resolve().parents[1] / "e2e" / "clients" / "node_modules"
_CHUNK = 1 << 20

_TUS_JS = """<!doctype html><meta charset="utf-8"><title>Portal</title><link rel="icon" href="data:,">
<input type="file"><p role="status"></p>
<script src="/{package}/dist/tus.min.js"></script>
<script>
  document.querySelector('input').onchange = (event) => {
    const said = document.querySelector('p')
    const file = event.target.files[0]
    new tus.Upload(file, {
      ...JOB,
      metadata: { filename: file.name, filetype: file.type, ...JOB.metadata },
      onError: (error) => { said.textContent = `failed: ${error}` },
      onSuccess: () => { said.textContent = 'complete' },
    }).start()
  }
</script>"""
_UPPY = """<!doctype html><meta charset="utf-8"><title>Portal</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="/uppy/dist/uppy.min.css">
<div id="dashboard"></div><p role="status"></p>
<script type="module">
  import { Uppy, Dashboard, Tus } from '/uppy/dist/uppy.min.mjs'
  const { metadata, ...options } = JOB
  new Uppy({ meta: metadata })
    .use(Dashboard, { inline: true, target: '#dashboard' })
    .use(Tus, options)
    .on('complete', ({ successful, failed }) => {
      document.querySelector('p').textContent = failed.length ? 'failed' : `complete ${successful.length}`
    })
</script>"""


class Portal:
    """A web server of somebody else, with pages that upload to us."""

    def __init__(self) -> None:
        """Listen on a free port."""
        self.pages: dict[str, str] = {}
        portal = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(_MODULES))  # type: ignore[arg-type]

            def do_GET(self) -> None:
                page = portal.pages.get(self.path)
                if page is None:
                    super().do_GET()
                    return
                self.send_response(200)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(page.encode())

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def page(self, text: str, job: dict[str, object]) -> str:
        """Publish a page with what it is to do, and return its address."""
        path = f"/page-{len(self.pages)}"
        self.pages[path] = text.replace("JOB", json.dumps(job))
        return self.origin + path

    def close(self) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def portal() -> Iterator[Portal]:
    """Run the other web server."""
    if not all((_MODULES / name).is_dir() for name in ("uppy", "tus-js-client", "tus-js-client-5")):
        message = "clients for browsers are not installed: make clients"
        if missing_allowed():
            pytest.skip(message)
        pytest.fail(message, pytrace=False)
    running = Portal()
    yield running
    running.close()


@pytest.fixture(scope="module")
def server(portal: Portal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server that lets the portal's pages upload, and no others."""
    folder = tmp_path_factory.mktemp("others")
    with ServerProcess(folder, environment={"TUS__CORS_ORIGINS": portal.origin}) as running:
        yield running


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Visitor]:
    """Visit the portal, from which the drop-off's server is another host."""
    with visiting(chromium, hosts=2) as made:
        yield made


@pytest.fixture(params=["header", "metadata"])
def job(request: pytest.FixtureRequest, server: ServerProcess) -> tuple[Drop, dict[str, object]]:
    """Make a drop-off, and what a client is told: the code in the header or in the metadata."""
    drop = server.create_drop()
    in_header = request.param == "header"
    return drop, {
        "endpoint": drop.upload_url,
        "headers": {"Dropoff-Code": drop.code} if in_header else {},
        "metadata": {} if in_header else {"code": drop.code},
        "chunkSize": _CHUNK,
        "retryDelays": [0, 1000, 3000],
    }


@pytest.mark.parametrize("package", ["tus-js-client", "tus-js-client-5"])
def test_page_with_tus_js_client_works_from_another_origin(
    *,
    portal: Portal,
    server: ServerProcess,
    visitor: Visitor,
    job: tuple[Drop, dict[str, object]],
    package: str,
    tmp_path: Path,
) -> None:
    """The release and the next one, in several PATCHes; the code is in no metadata that is kept."""
    drop, told = job
    file = file_of(tmp_path / "genome é.bin", 3 * _CHUNK + 17)
    visitor.page.goto(portal.page(_TUS_JS.replace("{package}", package), told))
    visitor.page.set_input_files("input", file)
    _is_complete(visitor.page, "complete")
    assert received(server, drop.id) == {file.name: sha256_of(file)}


def test_uppy_dashboard_works_from_another_origin(
    portal: Portal, server: ServerProcess, visitor: Visitor, job: tuple[Drop, dict[str, object]], tmp_path: Path
) -> None:
    """Several files at once, as people add them to the Dashboard."""
    drop, told = job
    files = [file_of(tmp_path / f"scan {number}.bin", (number + 1) * 700_000, seed=number) for number in range(3)]
    visitor.page.goto(portal.page(_UPPY, told))
    visitor.page.locator("input[type=file]").first.set_input_files(files)
    visitor.page.get_by_role("button", name="Upload 3 files").click()
    _is_complete(visitor.page, "complete 3")
    assert received(server, drop.id) == {path.name: sha256_of(path) for path in files}


def test_page_of_an_origin_that_is_not_let_in_sends_nothing(
    portal: Portal, server: ServerProcess, chromium: Browser
) -> None:
    """The browser holds it back, since the server does not name that origin."""
    drop = server.create_drop()
    told: dict[str, object] = {"endpoint": drop.upload_url, "headers": {"Dropoff-Code": drop.code}, "retryDelays": []}
    address = portal.page(_TUS_JS.replace("{package}", "tus-js-client"), told).replace("127.0.0.1", "localhost")
    context = chromium.new_context()
    page = context.new_page()
    page.goto(address)
    page.set_input_files("input", [FilePayload(name="x", mimeType="", buffer=b"x")])
    _is_complete(page, "failed")
    context.close()
    assert server.uploads(drop) == []


def _is_complete(page: Page, text: str) -> None:
    expect(page.get_by_role("status").last).to_contain_text(text, timeout=60_000)
