"""The upload that `doctor` makes through the public URL, and what its failures mean.

It speaks tus by hand, since it wants to see what a client library would hide: which bytes arrive while others are still
to come, and which headers a proxy takes away.
"""

import http.client
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Self
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 30.0
_QUIET_SECONDS = 1.5
"""Longer than the second after which a HEAD makes the server keep what has arrived."""
_HELD_BACK_BYTES = 64 << 10
_CLOCK_SECONDS = 60.0
_HEADERS = ("Location", "Tus-Resumable", "Upload-Expires", "Dropoff-Upload-Id")
_TUS = {"Tus-Resumable": "1.0.0"}


@dataclass(frozen=True, slots=True)
class Result:
    """One thing that was looked at: `status` is ok, warning or problem; `advice` says what to do."""

    check: str
    status: str
    detail: str
    advice: str = ""


class ProbeError(Exception):
    """The upload cannot go on; carries the result that says why."""

    def __init__(self, check: str, detail: str, advice: str) -> None:
        """Make the result."""
        super().__init__(detail)
        self.result = Result(check, "problem", detail, advice)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @classmethod
    def of(cls, response: http.client.HTTPResponse) -> Self:
        body = response.read(4096)
        return cls(response.status, dict(response.headers.items()), body.decode("ascii", "replace").strip())

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers.items() if key.lower() == name.lower()), None)

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
    results: list[Result] = field(default_factory=list)
    location: str = field(default="", repr=False)

    def run(self) -> None:
        """Create, send in two parts, ask in between.

        Raises:
            ProbeError: It came to no end.
        """
        self._discover()
        self._create()
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
            detail = f"this machine and {self.base_url} are {apart:.0f} s apart"
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
            detail = f"the answer lacks {', '.join(lacking)}"
            self.results.append(Result("headers", "problem", detail, "let the proxy pass response headers"))
        if not self.location.startswith(f"{self.base_url}/files/{self.drop_id}/"):
            where = urlsplit(self.location)
            detail = f"the server sends uploads to {where.scheme}://{where.netloc}, not to {self.base_url}"
            advice = "set server.public_url to the address that clients use, its path included"
            raise ProbeError("public_url", detail, advice)
        self._ok("public_url", "the server sends uploads to the address that clients use")

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
            detail = "nothing arrives before a request is whole: a proxy buffers bodies"
            advice = "switch it off (nginx: proxy_request_buffering off), or a cut link loses whole parts"
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

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.base_url)
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(parts.netloc, timeout=TIMEOUT_SECONDS, context=context)
        return http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_SECONDS)

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
