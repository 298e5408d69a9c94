"""A real SMTP server with STARTTLS and a password, which keeps what it takes."""

import email
import email.policy
import ssl
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from tests.support.server_process import free_port_pair

USER, PASSWORD = "drop", "the mail pässwörd, a secret"


class MailServer:
    """Listens on 127.0.0.1; `answer` is what it says to a message (`250 OK`, or a refusal), unless `silent`."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        """Take a certificate and its key."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        self.port = free_port_pair()
        self.answer = "250 OK"
        self.silent = False
        self.refused: dict[str, str] = {}
        """Its refusals of EHLO (and HELO), MAIL or RCPT, by the command."""
        self.greeted_by: list[str] = []
        """The names that clients gave at EHLO."""
        self.put_off: set[str] = set()
        """Addresses that are refused for now."""
        self.taken_for: list[list[str]] = []
        self.taken: list[EmailMessage] = []
        self.raw: list[bytes] = []
        self._controller = Controller(
            self,
            hostname="127.0.0.1",
            port=self.port,
            tls_context=context,
            require_starttls=True,
            auth_required=True,
            authenticator=_authenticate,
        )

    def __enter__(self) -> Self:
        """Listen."""
        self._controller.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Stop."""
        self._controller.stop()

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's
        self,
        _server: object,
        session: Any,  # noqa: ANN401 - likewise
        _envelope: object,
        hostname: str,
        responses: list[str],
    ) -> list[str]:
        """Take a name."""
        self.greeted_by.append(hostname)
        session.host_name = hostname
        return [self.refused["EHLO"]] if "EHLO" in self.refused else responses

    async def handle_HELO(self, _server: object, session: Any, _envelope: object, hostname: str) -> str:  # noqa: ANN401, N802 - aiosmtpd's
        """Take a name."""
        session.host_name = hostname
        return self.refused.get("EHLO", "250 OK")

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's
        self,
        _server: object,
        _session: object,
        envelope: Any,  # noqa: ANN401 - likewise
        address: str,
        _options: object,
    ) -> str:
        """Take a sender."""
        envelope.mail_from = address
        return self.refused.get("MAIL", "250 OK")

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's
        self,
        _server: object,
        _session: object,
        envelope: Any,  # noqa: ANN401 - likewise
        address: str,
        _options: object,
    ) -> str:
        """Take an address."""
        if "RCPT" in self.refused:
            return self.refused["RCPT"]
        if address in self.put_off:
            return "451 come again later"
        if address.startswith("unknown"):
            return "550 nobody"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: object, _session: object, envelope: Any) -> str:  # noqa: ANN401, N802 - aiosmtpd's
        """Take a message."""
        while self.silent:
            time.sleep(0.01)  # noqa: ASYNC251 - nothing at all is to be answered, nor the end of TLS
        if self.answer.startswith("250"):
            self.taken_for.append(list(envelope.rcpt_tos))
            self.raw.append(envelope.content)
            self.taken.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return self.answer

    def wait_for(self, count: int, *, timeout_seconds: float = 20) -> list[EmailMessage]:
        """Wait until so many messages came, and return all."""
        deadline = time.monotonic() + timeout_seconds
        while len(self.taken) < count:
            assert time.monotonic() < deadline, f"{len(self.taken)} of {count} messages came"
            time.sleep(0.01)
        return list(self.taken)


def _authenticate(_server: object, _session: object, _envelope: object, _mechanism: str, data: Any) -> AuthResult:  # noqa: ANN401 - aiosmtpd's
    right = LoginPassword(USER.encode(), PASSWORD.encode())
    return AuthResult(success=data == right, handled=False)
