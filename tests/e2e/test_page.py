"""The upload page as the real server sends it: the same for everybody, with its headers, and nothing beside it."""

import base64
import gzip
import hashlib
import html
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.answers import assert_refused
from tests.support.nginx import Proxy
from tests.support.programs import BUILT_PAGE, require_program
from tests.support.server_process import Drop, ServerProcess, token_of
from tests.support.tus_raw import Response, TusSite, metadata

_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><style>rect{fill:#7a1f4b}</style><rect width="9" height="9"/></svg>'
_OF_ALL = {
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Set-Cookie": None,
    "Access-Control-Allow-Origin": None,
}
_UNKNOWN = "00000000-0000-4000-8000-000000000000"
_CODINGS = {"br": "br", "gzip": "gzip", "gzip, deflate, br, zstd": "br", "br;q=0, gzip": "gzip", "BR": "br"}
_NO_CODINGS = ("", "identity", "br;q=0", "br; q=0.000, gzip;q=0", "zstd", "xbr", "*")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Run a server of an institute, with patience for wrong codes, to which others' pages may upload."""
    require_program(BUILT_PAGE)
    folder = tmp_path_factory.mktemp("page")
    (folder / "logo.svg").write_bytes(_SVG)
    settings = {
        "PAGE__INSTITUTE": "Institute of <Tests>",
        "PAGE__EMAIL": "data@example.org",
        "PAGE__LOGO": str(folder / "logo.svg"),
        "PAGE__BRAND": "#7a1f4b",
        "PAGE__BRAND_DARK": "#f0a9c8",
        "PAGE__LANGUAGES": "nl,en",
        "TUS__CORS_ORIGINS": "*",
        "TUS__MAX_UPLOAD_BYTES": "1000000",
        "LIMITS__WRONG_CODES_PER_HOUR": "1000",
    }
    with ServerProcess(folder, environment=settings) as running:
        yield running


@pytest.fixture(scope="module")
def site(server: ServerProcess) -> TusSite:
    """Return the first drop-off."""
    return server.drop.site


def _get(site: TusSite, target: str, headers: dict[str, str | None] | None = None) -> Response:
    return site.request("GET", target, {"Origin": "https://other.example", **(headers or {})})


def _info(drop: Drop) -> dict[str, Any]:
    answer = drop.site.request("GET", f"/d/{drop.id}/info", dict(drop.headers))
    assert answer.status == 200, answer
    return dict(json.loads(answer.body))


def _assets(page: bytes) -> list[str]:
    """Return where the page's assets are: those that it names, and the institute's."""
    told = json.loads(html.unescape(re.findall(r'name="dropoff" content="([^"]*)"', page.decode())[0]))
    named = re.findall(r'(?:src|href)="\./([^"]*)"', page.decode())
    return sorted({f"/d/{name}" for name in [*named, told["logo"]]})


def _policy(answer: Response) -> dict[str, list[str]]:
    directives = (part.split() for part in answer.needed("Content-Security-Policy").split(";"))
    return {name: values for name, *values in directives}


# ---- the page -----------------------------------------------------------------------------------------------------


def test_page_is_the_same_for_known_and_unknown_drop_offs(server: ServerProcess, site: TusSite) -> None:
    """So that nobody learns from it which there are; it says who asks, and nothing of the drop-off."""
    drop = server.create_drop("--contact", "Ada, room 7", name="Cohort seven")
    pages = [_get(site, f"/d/{drop_id}") for drop_id in (drop.id, server.drop.id, _UNKNOWN, "x", "assets", drop.code)]
    assert {answer.status for answer in pages} == {200}
    assert len({answer.body for answer in pages}) == 1
    assert (
        len({tuple(pair for pair in answer.headers if pair[0] not in {"Date", "X-Request-Id"}) for answer in pages})
        == 1
    )
    body = pages[0].body
    assert b"Institute of &lt;Tests&gt;" in body
    assert b"data@example.org" in body
    for secret in (drop.id, drop.code, drop.name, "Ada", server.drop.id):
        assert (secret or "-").encode() not in body


def test_page_allows_its_own_scripts_and_styles_and_nothing_else(site: TusSite) -> None:
    """Nothing inline, nothing evaluated, nobody else's, in no frame; and it is kept by no cache."""
    answer = _get(site, f"/d/{_UNKNOWN}")
    for name, value in {**_OF_ALL, "Cache-Control": "no-store"}.items():
        assert answer.header(name) == value, name
    policy = _policy(answer)
    assert policy["default-src"] == ["'none'"]
    for name in ("script-src", "style-src", "img-src", "connect-src", "worker-src"):
        assert policy.pop(name) == ["'self'"], name
    assert policy.pop("require-trusted-types-for") == ["'script'"]
    assert policy.pop("trusted-types") == ["dropoff"]
    assert set(policy) == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert all(values == ["'none'"] for values in policy.values())
    assert "unsafe" not in answer.needed("Content-Security-Policy")
    assert "screen-wake-lock=(self)" in answer.needed("Permissions-Policy")
    assert answer.header("Content-Type") == "text/html; charset=utf-8"
    assert re.search(rb"<style|style=|<script>| on\w+=|javascript:|data:|blob:|https?://", answer.body) is None


def test_page_names_the_words_that_its_browser_will_need(site: TusSite) -> None:
    """They come beside the script, and not after it; caches keep the answers apart."""
    for accepted, language in (("en-GB,en;q=0.9", "en"), ("fr,nl;q=0.5", "nl"), (None, "nl")):
        answer = _get(site, f"/d/{_UNKNOWN}", {"Accept-Language": accepted})
        link = re.fullmatch(r"<\./(assets/(\w+)-[^>]+\.js)>; rel=modulepreload", str(answer.header("Link")))
        assert link is not None
        assert link[2] == language
        assert answer.header("Vary") == "Accept-Language"
        assert _get(site, f"/d/{link[1]}").status == 200


def test_page_answers_nothing_but_get_and_head(site: TusSite) -> None:
    """With the headers of all others."""
    answer = site.request("HEAD", f"/d/{_UNKNOWN}", {})
    assert (answer.status, answer.body) == (200, b"")
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        refused = site.request(method, f"/d/{_UNKNOWN}", {"Content-Length": "0"})
        assert refused.status == 405
        assert refused.header("Content-Security-Policy")


# ---- its assets ---------------------------------------------------------------------------------------------------


def test_assets_are_kept_for_ever_and_have_their_types(site: TusSite) -> None:
    """Scripts and styles of the build, the institute's colours and its logo."""
    names = _assets(_get(site, f"/d/{_UNKNOWN}").body)
    assert {name.rpartition(".")[2] for name in names} == {"js", "css", "svg"}
    types = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    for name in names:
        answer = _get(site, name)
        assert answer.status == 200
        for header, value in {
            **_OF_ALL,
            "Content-Type": types[name.rpartition(".")[2]],
            "Cache-Control": "public, max-age=31536000, immutable",
            "Vary": "Accept-Encoding",
            "Content-Encoding": None,
            "Content-Length": str(len(answer.body)),
        }.items():
            assert answer.header(header) == value, (name, header)
        # A worker is held to the policy of its own script; a picture that is opened by itself may do nothing.
        policy = _policy(answer)
        assert policy["default-src"] == ["'none'"]
        assert ("sandbox" in policy) is not name.endswith(".js")
        assert policy.get("script-src") == (["'self'"] if name.endswith(".js") else None)
        assert "unsafe" not in answer.needed("Content-Security-Policy")


def test_logo_and_colours_are_the_institutes(site: TusSite) -> None:
    """The bytes of the file, and a style of the configured colours beside the page's own."""
    names = _assets(_get(site, f"/d/{_UNKNOWN}").body)
    (logo,) = [name for name in names if "/logo-" in name]
    (brand,) = [name for name in names if "/brand-" in name]
    assert _get(site, logo).body == _SVG
    assert hashlib.sha256(_SVG).hexdigest()[:12] in logo
    assert b"--brand: #7a1f4b" in _get(site, brand).body


@pytest.mark.parametrize("accepted", [*_CODINGS, *_NO_CODINGS])
def test_assets_come_compressed_as_the_browser_takes_it(site: TusSite, accepted: str) -> None:
    """Brotli before gzip, and none of them where it is refused; the file is the same."""
    script = next(name for name in _assets(_get(site, f"/d/{_UNKNOWN}").body) if name.endswith(".js"))
    plain = _get(site, script).body
    answer = _get(site, script, {"Accept-Encoding": accepted})
    assert answer.header("Content-Encoding") == _CODINGS.get(accepted)
    assert answer.header("Vary") == "Accept-Encoding"
    if accepted in _NO_CODINGS:
        assert answer.body == plain
    elif _CODINGS[accepted] == "gzip":
        assert gzip.decompress(answer.body) == plain
    else:
        url = site.upload_url.partition("/files/")[0] + script
        curl = [str(require_program("curl")), "-sS", "--compressed", url]
        assert subprocess.run(curl, capture_output=True, check=True).stdout == plain
        assert len(answer.body) < len(plain)


def test_nothing_but_the_assets_can_be_reached(site: TusSite) -> None:
    """No folder, no file beside it, no compressed form by itself, and no way out, however it is spelled."""
    script = next(name for name in _assets(_get(site, f"/d/{_UNKNOWN}").body) if name.endswith(".js"))
    for target in (
        "/d/assets/",
        "/d/",
        "/d",
        "/d/assets/index.html",
        "/d/assets/licenses.md",
        f"{script}.br",
        f"{script}.gz",
        f"{script}/",
        script.upper(),
        "/d/assets/../index.html",
        "/d/assets/..%2Findex.html",
        "/d/assets/%2e%2e/index.html",
        "/d/assets/..%5cindex.html",
        "/d/assets/%2Fetc%2Fpasswd",
        "/d/assets//etc/passwd",
        "/d/assets/.",
        "/d/assets/%00",
        f"/d/{_UNKNOWN}/",
        f"/d/{_UNKNOWN}/assets/x",
    ):
        answer = _get(site, target)
        # A resolved path may be the page of a drop-off with an odd id.
        assert answer.status == 404 or b'name="dropoff"' in answer.body, target
        if answer.status == 404 and target.startswith("/d/"):
            assert answer.header("Cache-Control") == "no-store"
            assert answer.header("Content-Security-Policy")


# ---- once there is a code -----------------------------------------------------------------------------------------


def test_info_says_what_is_taken_and_what_is_left(server: ServerProcess) -> None:
    """Limits, the smaller one of server and drop-off, and what of them is not used up, by open uploads too."""
    drop = server.create_drop("--max-total-bytes", "5000", "--max-uploads", "3", "--opens", "0", "--expires", "1d")
    told = _info(drop)
    assert told["limits"]["max_upload_bytes"] == 1_000_000
    assert told["left"] == {"bytes": 5000, "uploads": 3}
    assert (told["state"], told["mode"], told["opens_at"]) == ("open", "managed", None)
    assert told["expire_after_seconds"] == 7 * 86400
    assert (told["sealing"], told["recipients"]) == (False, [])
    drop.site.create(1000)
    drop.site.upload(b"hello")
    assert _info(drop)["left"] == {"bytes": 5000 - 1005, "uploads": 1}
    assert _info(server.create_drop("--max-upload-bytes", "10"))["limits"]["max_upload_bytes"] == 10
    assert _info(server.create_drop())["left"] == {"bytes": None, "uploads": None}
    later = server.create_drop("--opens", "1d")
    told = _info(later)
    assert told["state"] == "not_open"
    assert told["opens_at"].endswith("Z")


def test_info_has_one_answer_for_wrong_codes_and_unknown_drop_offs(server: ServerProcess, site: TusSite) -> None:
    """And the headers of the page in each, whether it tells something or refuses."""
    right = site.request("GET", f"/d/{server.drop.id}/info", {"Dropoff-Code": site.code})
    answers = [
        site.request("GET", f"/d/{drop_id}/info", {"Dropoff-Code": code})
        for drop_id, code in ((server.drop.id, "wrong"), (server.drop.id, None), (_UNKNOWN, site.code), ("x", None))
    ]
    for answer in answers:
        assert_refused(answer, 403, "ERR_ACCESS_DENIED")
    assert len({answer.body for answer in answers}) == 1
    for answer in (right, *answers):
        for name, value in {**_OF_ALL, "Cache-Control": "no-store"}.items():
            assert answer.header(name) == value, name
        assert _policy(answer)["default-src"] == ["'none'"]
        assert "unsafe" not in answer.needed("Content-Security-Policy")
    server.cli("drop", "close", server.create_drop("--id", "11111111-1111-4111-8111-111111111111").id)


def test_info_of_a_closed_drop_off_says_so(server: ServerProcess) -> None:
    """To everybody who has its code; the page can then name the contact."""
    drop = server.create_drop("--contact", "Ada")
    server.cli("drop", "close", drop.id)
    told = _info(drop)
    assert (told["state"], told["contact"]) == ("closed", "Ada")


def test_receipts_of_many_uploads_come_at_once_in_order(server: ServerProcess) -> None:
    """Each as it comes by itself; uploads without one, or of another drop-off, are left out."""
    drop, other = server.create_drop(), server.create_drop()
    urls = [drop.site.upload(f"file {number}".encode()) for number in range(20)]
    tokens = [token_of(url) for url in urls]
    strangers = [token_of(drop.site.create(5)), token_of(other.site.upload(b"x")), "0" * 32, "no token"]
    asked = [*tokens[:10], *strangers, *tokens[10:]]
    target = f"/d/{drop.id}/receipts"
    answer = drop.site.request("POST", target, _with_length(drop, asked), "\n".join(asked).encode())
    assert (answer.status, answer.header("Content-Type")) == (200, "text/plain")
    assert answer.header("Cache-Control") == "no-store"
    each = [drop.site.request("GET", f"{url}/receipt", {}).body for url in urls]
    assert answer.body == b"".join(each)
    assert all(line.endswith(b"\n") for line in each)
    for code in ("wrong", None):
        headers = {**_with_length(drop, asked), "Dropoff-Code": code}
        assert_refused(drop.site.request("POST", target, headers, "\n".join(asked).encode()), 403, "ERR_ACCESS_DENIED")
    many = ["0" * 32] * 501
    answer = drop.site.request("POST", target, _with_length(drop, many), "\n".join(many).encode())
    assert_refused(answer, 400, "ERR_MALFORMED_REQUEST")


def _with_length(drop: Drop, tokens: list[str]) -> dict[str, str | None]:
    return {**drop.headers, "Content-Length": str(len("\n".join(tokens)))}


def test_log_and_metrics_name_the_routes_and_nothing_of_the_request(server: ServerProcess) -> None:
    """Neither a code nor a token nor a name of a file, and no id in a metric."""
    drop = server.create_drop(name="A name that is nobody's business")
    url = drop.site.upload(b"hello", {"Upload-Metadata": metadata(filename="private.csv")})
    _get(drop.site, f"/d/{drop.code}")
    _get(drop.site, f"/d/assets/{token_of(url)}")
    _info(drop)
    drop.site.request("POST", f"/d/{drop.id}/receipts", _with_length(drop, [token_of(url)]), token_of(url).encode())
    logged = server.logged()
    routes = {json.loads(line).get("route") for line in logged.splitlines() if line.startswith("{")}
    assert {"page", "asset", "info", "receipts"} <= routes
    metrics = TusSite(f"http://127.0.0.1:{server.port + 1}/", None).request("GET", "/metrics", {}).body.decode()
    for route in ("page", "asset", "info", "receipts"):
        assert f'route="{route}"' in metrics
    for secret in (drop.code, token_of(url), "private.csv", base64.b64encode(b"private.csv").decode(), drop.name):
        assert (secret or "-") not in logged + metrics
    assert drop.id not in metrics


# ---- through nginx ------------------------------------------------------------------------------------------------


def test_page_comes_through_nginx_by_http2_as_it_is(server: ServerProcess, site: TusSite, tmp_path: Path) -> None:
    """Page and assets, with their headers and codings; and what the page asks with its code."""
    proxy = Proxy(tmp_path, server)
    with proxy.running():
        for target in (f"/d/{_UNKNOWN}", *_assets(_get(site, f"/d/{_UNKNOWN}").body)):
            headers = {"Accept-Encoding": "br"}
            status, seen, body = _curl(proxy, tmp_path, target, headers)
            direct = site.request("GET", target, dict(headers))
            assert (status, body) == ("2 200", direct.body)
            for name in (*_OF_ALL, "Content-Security-Policy", "Cache-Control", "Content-Encoding", "Content-Type"):
                assert seen.get(name.lower()) == direct.header(name), (target, name)
            assert seen["strict-transport-security"]
        told = _curl(proxy, tmp_path, f"/d/{server.drop.id}/info", {"Dropoff-Code": str(server.drop.code)})
        assert json.loads(told[2])["id"] == server.drop.id
        assert _curl(proxy, tmp_path, f"/d/{server.drop.id}/info", {})[0] == "2 403"


def _curl(proxy: Proxy, folder: Path, target: str, headers: dict[str, str]) -> tuple[str, dict[str, str], bytes]:
    """Return version and status, headers and body of what nginx answers."""
    given = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    command = [
        str(require_program("curl")),
        "-sS",
        "--http2",
        "--cacert",
        str(proxy.certificate),
        "-D",
        "heads",
        *given,
    ]
    done = subprocess.run([*command, proxy.origin + target], cwd=folder, capture_output=True, check=True)
    first, *lines = (folder / "heads").read_text("ascii").strip().splitlines()
    pairs = (line.partition(": ") for line in lines)
    return first.removeprefix("HTTP/").strip(), {name.lower(): value for name, _, value in pairs}, done.stdout


# ---- configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"PAGE__BRAND": "#ff9999", "PAGE__BRAND_DARK": "#f0a9c8"}, "have a contrast of"),
        ({"PAGE__LOGO": "/nonexistent/logo.svg"}, "page.logo: cannot read /nonexistent/logo.svg"),
        ({"PAGE__LANGUAGES": "tlh"}, "page.languages"),
    ],
    ids=["brand", "logo", "language"],
)
def test_page_that_cannot_be_made_keeps_the_server_from_starting(
    tmp_path: Path, setting: dict[str, str], words: str
) -> None:
    """With a sentence, which `check-config` says too."""
    server = ServerProcess(tmp_path)
    server.environment = {**server.environment, **setting}
    server.launch()
    assert server.wait() == 1
    assert words in server.log_text
    assert "Traceback" not in server.log_text
    checked = server.cli("check-config", check=False)
    assert checked.returncode == 1
    assert words.encode() in checked.stderr
