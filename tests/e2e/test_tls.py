"""TLS of the server itself: mistakes in a certificate or its key, and renewal while it runs."""

import contextlib
import http.client
import os
import shutil
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificate import make_certificate
from tests.support.metrics import Scrape
from tests.support.programs import require_program
from tests.support.server_process import REPOSITORY, ServerProcess, program

_ON_A_TERMINAL = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"


@pytest.fixture
def server(tmp_path: Path) -> ServerProcess:
    """Return a server with a certificate, which does not run yet."""
    made = ServerProcess(tmp_path)
    (tmp_path / "next").mkdir()
    certificate, key = make_certificate(tmp_path)
    made.environment = {"SERVER__TLS_CERT": str(certificate), "SERVER__TLS_KEY": str(key)}
    return made


@contextlib.contextmanager
def _connection(server: ServerProcess) -> Iterator[http.client.HTTPSConnection]:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=20)
    connection.connect()
    try:
        yield connection
    finally:
        connection.close()


def _ask(connection: http.client.HTTPSConnection) -> str:
    """Ask for something; return the certificate that was presented when the connection was made."""
    connection.request("OPTIONS", "/files/")
    answer = connection.getresponse()
    assert answer.status < 500
    answer.read()
    assert isinstance(connection.sock, ssl.SSLSocket)
    return ssl.DER_cert_to_PEM_cert(connection.sock.getpeercert(binary_form=True) or b"")


def _presented(server: ServerProcess) -> str:
    with _connection(server) as connection:
        return _ask(connection)


def test_renewed_certificate_is_taken_by_new_connections_without_a_restart(
    server: ServerProcess, tmp_path: Path
) -> None:
    """Old connections go on; a renewal that is half written, or wrong, changes nothing until it is whole."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    with server, _connection(server) as old:
        oldest = _ask(old)
        for way in (shutil.copy, os.replace):
            before = certificate.read_text()
            assert _presented(server) == before
            new_certificate, new_key = make_certificate(tmp_path / "next")
            renewed = new_certificate.read_text()
            way(new_certificate, certificate)
            # Its key is still that of the old one.
            assert _presented(server) == before
            way(new_key, key)
            assert _presented(server) == renewed != before
        end = Scrape.of(server).value("dropoff_tls_certificate_end_timestamp_seconds", setting="server.tls_cert")
        assert end == pytest.approx(time.time() + 86400, abs=600)
        key.unlink()
        assert _presented(server) == certificate.read_text()
        assert _ask(old) == oldest
    assert "a renewed certificate cannot be used" in server.log_text
    assert "the certificate was renewed" in server.log_text


def _said(server: ServerProcess) -> list[str]:
    """Return what `check-config` and `serve` say, which has to be the same."""
    answers = [server.cli(command, check=False) for command in ("check-config", "serve")]
    assert [answer.returncode for answer in answers] == [1, 1]
    checked, served = (answer.stderr.decode().removeprefix("dropoff-tus: ").splitlines() for answer in answers)
    assert checked == served
    return checked


def test_certificate_and_key_that_cannot_be_used_are_named(server: ServerProcess, tmp_path: Path) -> None:
    """Each of them, both at once where both are wrong, and with what to do."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    right = certificate.read_text(), key.read_text()
    key.chmod(0o644)
    (line,) = _said(server)
    assert line.startswith(f"server.tls_key: {key} can be read or written by others (mode 0644); run: chmod 600 {key};")
    key.chmod(0o600)
    certificate.write_text("none")
    key.write_text("none")
    assert [line.partition(";")[0] for line in _said(server)] == [
        f"server.tls_cert: {certificate} is no certificate in PEM",
        f"server.tls_key: {key} is no key in PEM",
    ]
    certificate.write_text(right[0])
    key.write_text(make_certificate(tmp_path / "next")[1].read_text())
    assert _said(server) == [
        f"server.tls_key: {key} is not the key of {certificate}, or one of them is damaged (KEY_VALUES_MISMATCH)"
    ]
    certificate.unlink()
    key.unlink()
    assert _said(server) == [
        f"server.tls_cert: cannot read {certificate}: No such file or directory",
        f"server.tls_key: cannot read the key at {key}: No such file or directory",
    ]


def test_encrypted_key_is_refused_and_asks_nobody(server: ServerProcess, tmp_path: Path) -> None:
    """On a terminal, where OpenSSL would ask for the password and wait."""
    openssl, key = str(require_program("openssl")), tmp_path / "key.pem"
    command = [openssl, "pkey", "-in", str(key), "-aes256", "-passout", "pass:secret", "-out", f"{key}.new"]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "key.pem.new").replace(key)
    overrides = {f"DROPOFF_TUS__{name}": value for name, value in server.environment.items()}
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "DROPOFF_TUS_CONFIG": str(server.config), **overrides}
    for name in ("check-config", "serve"):
        done = subprocess.run(
            [sys.executable, "-c", _ON_A_TERMINAL, *program(), name],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=60,
            check=False,
            env=environment,
        )
        assert done.returncode == 1, done
        assert f"server.tls_key: {key} is encrypted" in done.stdout
        assert "pass phrase" not in done.stdout
