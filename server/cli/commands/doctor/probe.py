"""The upload that `doctor` makes through the public URL, and what its failures mean.

It speaks tus by hand, since it wants to see what a client library would hide: which bytes arrive while others are still
to come, and which headers a proxy takes away.
"""

import http.client
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self
from urllib.parse import urlsplit

from server.cli.commands.doctor.result import Result
from server.cli.commands.doctor.window import upload_window

TIMEOUT_SECONDS = 30.0
_QUIET_SECONDS = 1.5
"""Longer than the second after which a HEAD makes the server keep what has arrived."""
_HELD_BACK_BYTES = 64 << 10
_CLOCK_SECONDS = 60.0
HUGE_BYTES = 1 << 40
_ANSWER_SECONDS = 3.0
_LEAST_WINDOW_BYTES = 1 << 20
_FAR_SECONDS = 0.05
_MB = 1e6
_HEADERS = ("Location", "Tus-Resumable", "Upload-Expires", "Dropoff-Upload-Id")
_TUS = {"Tus-Resumable": "1.0.0"}


class ProbeError(Exception):
    """The upload cannot go on; carries the result that says why."""

    def __init__(self, check: str, detail: str, advice: str) -> None:
        """Make the result."""
        super().__init__(detail)
        self.result = Result(check, "problem", detail, advice)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Sequence[tuple[str, str]]
    text: str

    @classmethod
    def of(cls, response: http.client.HTTPResponse) -> Self:
        body = response.read(4096)
        return cls(response.status, response.getheaders(), body.decode("ascii", "replace").strip())

    def header(self, name: str) -> str | None:
        return next(iter(self.all(name)), None)

    def all(self, name: str) -> list[str]:
        """Return a header's values; browsers take some headers only if they are there once."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def lists(self, name: str, *words: str) -> bool:
        """Tell whether a list header has all these words."""
        listed = {word.strip().lower() for word in ",".join(self.all(name)).split(",")}
        return listed.issuperset(word.lower() for word in words)

    def describe(self) -> str:
        """Say status and, where it is ours, the error."""
        ours = self.text.splitlines()[0] if self.text.startswith("ERR_") else ""
        return f"{self.status} {ours}".strip()


@dataclass(slots=True)
class Probe:
    """One upload, step by step. `location` is the upload's URL, a secret that is not printed."""

    base_url: str
    drop_id: str
    code: str
    content: bytes = field(repr=False)
    largest_bytes: int = HUGE_BYTES
    origins: Sequence[str] = ()
    """Of the pages that may send from elsewhere (`tus.cors_origins`)."""
    results: list[Result] = field(default_factory=list)
    location: str = field(default="", repr=False)

    def run(self) -> None:
        """Create, send in two parts, ask in between.

        Raises:
            ProbeError: It came to no end.
        """
        self._discover()
        self._create()
        self._look_at_limit()
        self._look_at_window()
        self._look_at_cors()
        first = len(self.content) // 2
        self._send_watched(self.content[:first])
        self._expect_offset(first)
        answer = self._request("PATCH", self.location, self._patch_headers(first), self.content[first:])
        self._judge_patch(answer)
        self._expect_offset(len(self.content))
        self._ok("upload", f"{len(self.content)} bytes in two parts, through {self.base_url}")

    # ---- steps ----------------------------------------------------------------------------------------------

    def _discover(self) -> None:
        answer = self._request("OPTIONS", self._upload_url, {})
        if answer.header("Tus-Version") is None:
            detail = f"{self.base_url}/files/ answers {answer.status}, but not as dropoff-tus does"
            raise ProbeError(
                "reach", detail, "let the proxy forward /files/ and /d/ as they are, or correct server.public_url"
            )
        self._ok("reach", f"{self.base_url} is answered by dropoff-tus")
        self._judge_clock(answer.header("Date"))

    def _judge_clock(self, text: str | None) -> None:
        if text is None:
            return
        apart = abs((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
        if apart > _CLOCK_SECONDS:
            detail = f"this machine and {self.base_url} are {apart:.0f} s apart, so uploads end too early or too late"
            self.results.append(Result("clock", "problem", detail, "set the clock: run an NTP client on both machines"))
        else:
            self._ok("clock", "agrees with the public URL's")

    def _create(self) -> None:
        headers = {**_TUS, "Dropoff-Code": self.code, "Upload-Length": str(len(self.content)), "Content-Length": "0"}
        answer = self._request("POST", self._upload_url, headers)
        if answer.status == http.client.FORBIDDEN:
            advice = "let the proxy pass the header Dropoff-Code; is this the configuration that `serve` runs with?"
            raise ProbeError(
                "create", "the right code was refused: it did not arrive, or another server answers", advice
            )
        if answer.status != http.client.CREATED:
            raise ProbeError("create", f"creating was answered {answer.describe()}", self._foreign_advice(answer))
        self.location = answer.header("Location") or ""
        lacking = [name for name in _HEADERS if not answer.header(name)]
        if lacking:
            detail = f"the answer lacks {', '.join(lacking)}, without which clients cannot go on after a cut"
            self.results.append(
                Result(
                    "headers", "problem", detail, "let the proxy pass response headers (nginx: no proxy_hide_header)"
                )
            )
        if not self.location.startswith(f"{self.base_url}/files/{self.drop_id}/"):
            raise ProbeError("public_url", *self._misled())
        self._ok("public_url", "the server sends uploads to the address that clients use")

    def _misled(self) -> tuple[str, str]:
        """Say where the server sends clients instead, and what of the proxy's settings makes it do so."""
        where, wanted = urlsplit(self.location), urlsplit(self.base_url)
        detail = (
            f"the server sends uploads to {where.scheme}://{where.netloc}, not to {self.base_url}: "
            "clients create them and then cannot reach them"
        )
        if where.netloc == wanted.netloc and where.scheme != wanted.scheme:
            cause = (
                "the proxy does not say which scheme it has (nginx: proxy_set_header X-Forwarded-Proto $scheme), or "
                "server.trusted_proxies lacks its address"
            )
        elif where.netloc != wanted.netloc:
            cause = "the proxy does not pass the host on (nginx: proxy_set_header Host $http_host; proxy_redirect off)"
        else:
            cause = "the proxy changes the path"
        return detail, f"set server.public_url to the address that clients use, its path included: {cause}"

    def _look_at_limit(self) -> None:
        """Announce a body as large as any may be, and send none of it: who limits bodies says so at once."""
        connection = self._connect(_ANSWER_SECONDS)
        try:
            connection.putrequest("PATCH", self._target(self.location), skip_accept_encoding=True)
            for name, value in {**self._patch_headers(0), "Content-Length": str(self.largest_bytes)}.items():
                connection.putheader(name, value)
            connection.endheaders()
            answer = _Answer.of(connection.getresponse())
        except (OSError, http.client.HTTPException):
            return  # it waits for the body, so it has no limit; a wrong buffer shows below
        finally:
            connection.close()
        if answer.status == http.client.REQUEST_ENTITY_TOO_LARGE and not answer.header("Tus-Resumable"):
            detail = "a proxy refuses large bodies (413), so clients that send a file in one piece fail"
            advice = "let the proxy take bodies of any size (nginx: client_max_body_size 0)"
            self.results.append(Result("body size", "problem", detail, advice))
        else:
            self._ok("body size", "no proxy limits it")

    def _look_at_window(self) -> None:
        """Ask for the window that a browser's upload would have."""
        parts = urlsplit(self.base_url)
        if parts.scheme != "https":
            return
        context = ssl.create_default_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        headers = {
            ":method": "PATCH",
            ":scheme": "https",
            ":authority": parts.netloc,
            ":path": self._target(self.location),
            "content-length": str(len(self.content)),
        }
        headers |= {name.lower(): value for name, value in self._patch_headers(0).items()}
        try:
            with (
                socket.create_connection((parts.hostname or "", parts.port or 443), TIMEOUT_SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=parts.hostname) as connection,
            ):
                if connection.selected_alpn_protocol() != "h2":
                    self._ok("http2", "not offered; browsers send over HTTP/1.1")
                    return
                window_bytes = upload_window(connection, headers, _QUIET_SECONDS)
        except OSError as error:
            raise self._unreachable(error) from error
        rate = f"{window_bytes / _FAR_SECONDS / _MB:.1f} MB/s at 50 ms"
        if window_bytes >= _LEAST_WINDOW_BYTES:
            self._ok("http2", f"{window_bytes} bytes of an upload in one round trip: {rate}")
            return
        detail = (
            f"over HTTP/2, which browsers speak, an upload sends {window_bytes} bytes in one round trip: {rate}, "
            "however fast the line is"
        )
        advice = "give it a larger window (nginx: client_body_buffer_size 8m; http2_body_preread_size 1m)"
        self.results.append(Result("http2", "warning", detail, advice))

    def _look_at_cors(self) -> None:
        """Ask as the browser does for a page of another origin."""
        ours = tuple(name for name in (*self._patch_headers(0), "Dropoff-Code"))
        asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": ", ".join(ours).lower()}
        for origin in self.origins or ("https://elsewhere.example",):
            named = "https://elsewhere.example" if origin == "*" else origin
            first = self._request("OPTIONS", self.location, {"Origin": named, **asked})
            then = self._request("HEAD", self.location, {"Origin": named, **_TUS})
            allowed = [answer.all("Access-Control-Allow-Origin") for answer in (first, then)]
            if not self.origins:
                if allowed != [[], []]:
                    detail = "a proxy lets pages of other sites in, which tus.cors_origins does not name"
                    advice = "let the server say it (nginx: no add_header Access-Control-…)"
                    self.results.append(Result("cors", "warning", detail, advice))
                return
            good = (
                all(values in ([named], ["*"]) for values in allowed)
                and first.status < http.client.MULTIPLE_CHOICES
                and first.lists("Access-Control-Allow-Methods", "POST", "PATCH", "HEAD")
                and first.lists("Access-Control-Allow-Headers", *ours)
                and then.lists("Access-Control-Expose-Headers", "Upload-Offset", "Location")
            )
            if not good:
                twice = any(len(values) > 1 for values in allowed)
                how = "there twice" if twice else "not those that the server gives"
                detail = f"the CORS headers for {origin} are {how}: browsers refuse every upload from its pages"
                advice = (
                    "let the server say it: pass OPTIONS on, and neither add nor take headers (nginx: no add_header "
                    "Access-Control-…); is this the tus.cors_origins that `serve` runs with?"
                )
                self.results.append(Result("cors", "problem", detail, advice))
                return
        self._ok("cors", f"pages of {', '.join(self.origins)} may send")

    def _send_watched(self, part: bytes) -> None:
        """Send a part, but for its end; ask what has arrived; then send the end."""
        held = min(_HELD_BACK_BYTES, len(part) // 2)
        connection = self._connect()
        try:
            connection.putrequest("PATCH", self._target(self.location), skip_accept_encoding=True)
            for name, value in {**self._patch_headers(0), "Content-Length": str(len(part))}.items():
                connection.putheader(name, value)
            connection.endheaders()
            connection.send(part[: len(part) - held])
            time.sleep(_QUIET_SECONDS)
            arrived = self._offset(self._request("HEAD", self.location, _TUS))
            connection.send(part[len(part) - held :])
            answer = _Answer.of(connection.getresponse())
        except ConnectionError:
            # A proxy that limits bodies answers and closes while we still send.
            try:
                answer = _Answer.of(connection.getresponse())
            except (OSError, http.client.HTTPException) as error:
                advice = "look for a limit on bodies in the proxy (nginx: client_max_body_size 0)"
                raise ProbeError("send", "the connection was cut while the body was sent", advice) from error
            self._judge_patch(answer)
            return
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()
        self._judge_patch(answer)
        if arrived == 0:
            detail = (
                "nothing arrives before a request is whole, since a proxy buffers bodies: a cut link loses all of it, "
                "and the proxy's disk fills"
            )
            advice = "switch it off (nginx: proxy_request_buffering off)"
            self.results.append(Result("buffering", "problem", detail, advice))
        else:
            self._ok("buffering", f"{arrived} bytes were kept while the request still ran")

    def _judge_patch(self, answer: _Answer) -> None:
        if answer.status == http.client.NO_CONTENT:
            return
        if answer.status == http.client.REQUEST_ENTITY_TOO_LARGE and not answer.header("Tus-Resumable"):
            advice = "let the proxy take bodies of any size (nginx: client_max_body_size 0)"
            raise ProbeError("send", "a proxy refused the size of the body (413)", advice)
        raise ProbeError("send", f"sending was answered {answer.describe()}", self._foreign_advice(answer))

    def _expect_offset(self, offset: int) -> None:
        answer = self._request("HEAD", self.location, _TUS)
        found = self._offset(answer)
        if found != offset:
            detail = f"HEAD says {found} (status {answer.status}) where {offset} bytes were acknowledged"
            raise ProbeError("resume", detail, "let the proxy pass HEAD and its headers, and cache nothing")

    # ---- the wire -------------------------------------------------------------------------------------------

    @property
    def _upload_url(self) -> str:
        return f"{self.base_url}/files/{self.drop_id}/"

    def _patch_headers(self, offset: int) -> dict[str, str]:
        return {**_TUS, "Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}

    def _connect(self, seconds: float = TIMEOUT_SECONDS) -> http.client.HTTPConnection:
        parts = urlsplit(self.base_url)
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(parts.netloc, timeout=seconds, context=context)
        return http.client.HTTPConnection(parts.netloc, timeout=seconds)

    @staticmethod
    def _target(url: str) -> str:
        return urlsplit(url).path

    def _request(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> _Answer:
        connection = self._connect()
        try:
            connection.request(method, self._target(url), body, dict(headers))
            return _Answer.of(connection.getresponse())
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            connection.close()

    def _unreachable(self, error: Exception) -> ProbeError:
        if isinstance(error, ssl.SSLError):
            detail = f"TLS with {self.base_url} fails: {getattr(error, 'verify_message', '') or error.reason}"
            return ProbeError("reach", detail, "renew or complete the certificate; clients refuse it as well")
        if isinstance(error, TimeoutError):
            advice = "is the server running, and does a firewall let this address through?"
            return ProbeError("reach", f"{self.base_url} does not answer", advice)
        reason = getattr(error, "strerror", None) or type(error).__name__
        advice = "start `dropoff-tus serve` and the proxy, or correct server.public_url"
        return ProbeError("reach", f"{self.base_url} cannot be reached: {reason}", advice)

    @staticmethod
    def _offset(answer: _Answer) -> int:
        text = answer.header("Upload-Offset") or ""
        return int(text) if text.isascii() and text.isdigit() else -1

    @staticmethod
    def _foreign_advice(answer: _Answer) -> str:
        if answer.header("Tus-Resumable"):
            return "the server itself says so; its log has the reason"
        return "a proxy says so, not dropoff-tus: let it pass POST, HEAD, PATCH and DELETE on /files/"

    def _ok(self, check: str, detail: str) -> None:
        self.results.append(Result(check, "ok", detail))
