"""A client of the operators' API, which sends the given request and reads one answer."""

import http.client
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.server_process import ServerProcess

EVERY_SCOPE = ("drops:read", "drops:write", "uploads:read", "uploads:download", "uploads:delete")


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON
        """Return the body as JSON."""
        return json.loads(self.body)


class Api:
    """Asks one server, with one token or none."""

    def __init__(self, server: ServerProcess, token: str | None) -> None:
        """Take the server and the token."""
        self._server, self.token = server, token

    @classmethod
    def with_scopes(cls, server: ServerProcess, *scopes: str, options: Sequence[str] = ()) -> "Api":
        """Make a token through the command line, with all scopes unless some are named."""
        given = [part for scope in scopes or EVERY_SCOPE for part in ("--scope", scope)]
        return cls(server, server.cli_json("token", "create", "--name", "test", *given, *options)["token"])

    def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,  # noqa: ANN401 - JSON
        headers: Mapping[str, str] | None = None,
    ) -> ApiAnswer:
        """Send one request; a body that is not bytes is sent as JSON."""
        sent = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if body is not None:
            sent["Content-Type"] = "application/json"
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self._server.port, timeout=30)
        try:
            connection.request(method, f"/api/v1{path}", raw, {**sent, **(headers or {})})
            answer = connection.getresponse()
            return ApiAnswer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()
