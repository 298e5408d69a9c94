"""From `serve` to `ready`: addresses first, then everything else; and what is said when an address is taken."""

import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.certificate import make_certificate
from tests.support.server_process import ProgramError, ServerProcess


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> ServerProcess:
    """Make a server once; each test starts it for itself."""
    return ServerProcess(tmp_path_factory.mktemp("start"), forked=False)


@pytest.fixture
def server(made: ServerProcess, tmp_path: Path) -> Iterator[ServerProcess]:
    """Return it with a key from a program that says when it is asked, and waits to be let go."""
    script = tmp_path / "key.sh"
    key = made.data / "secrets" / "code-key"
    script.write_text(f"touch {tmp_path}/asked\nwhile ! test -e {tmp_path}/go; do sleep 0.05; done\ncat {key}\n")
    made.environment = {"KEYS__CODE_KEY": f"command:sh {script}"}
    yield made
    made.close()


def test_client_that_comes_before_ready_waits_and_is_served(server: ServerProcess, tmp_path: Path) -> None:
    """The address is taken first and `ready` comes last; a client in between is not turned away."""
    server.launch()
    _wait_for(tmp_path / "asked")
    site = server.drop.site
    with site.connect() as connection:
        connection.send(site.message("POST", site.upload_url, site.post_headers({"Upload-Length": "5"})))
        time.sleep(0.2)
        assert not server.is_ready
        (tmp_path / "go").touch()
        server.wait_until_ready()
        assert connection.read_response().status == 201


@pytest.mark.parametrize("listener", ["server.listen", "monitoring.listen", "server.unix_socket"])
def test_taken_address_is_found_before_anything_is_opened(server: ServerProcess, tmp_path: Path, listener: str) -> None:
    """Beside a running server nothing is read or repaired; a sentence says which address it is."""
    with socket.socket(socket.AF_UNIX if "unix" in listener else socket.AF_INET) as other:
        if "unix" in listener:
            other.bind(str(tmp_path / "socket"))
            server.environment["SERVER__UNIX_SOCKET"] = str(tmp_path / "socket")
        else:
            other.bind(("127.0.0.1", server.port + (listener == "monitoring.listen")))
        other.listen()
        with pytest.raises(ProgramError, match="ended with 1"):
            server.start()
    said = server.log_text.splitlines()[-1]
    assert said.startswith(f"dropoff-tus: cannot listen on {listener} = ")
    assert not (tmp_path / "asked").exists()


def test_unix_socket_of_a_dead_server_is_taken_over(server: ServerProcess, tmp_path: Path) -> None:
    """A server that was killed leaves its socket behind, which must not keep the next one from starting."""
    path = tmp_path / "socket"
    server.environment["SERVER__UNIX_SOCKET"] = str(path)
    (tmp_path / "go").touch()
    server.start()
    server.kill9()
    assert path.exists()
    server.start()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"OPTIONS /files/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 204")


def test_tls_is_served_with_the_certificate_and_a_bad_one_is_a_sentence(server: ServerProcess, tmp_path: Path) -> None:
    """Without a proxy the server speaks TLS itself, and says so in its URL."""
    certificate, key = make_certificate(tmp_path)
    (tmp_path / "go").touch()
    server.environment |= {"SERVER__TLS_CERT": str(certificate), "SERVER__TLS_KEY": str(key)}
    server.start()
    assert f"ready https://127.0.0.1:{server.port}\n" in server.log_text
    site, url = server.drop.site, f"https://127.0.0.1:{server.port}/files/{server.drop.id}/"
    headers = {name: value or "" for name, value in site.post_headers({"Upload-Length": "5"}).items()}
    asked = urllib.request.Request(url, method="POST", headers=headers)
    with urllib.request.urlopen(asked, context=ssl.create_default_context(cafile=str(certificate))) as answer:
        assert answer.status == 201
        assert answer.headers["Location"].startswith(url)
    server.stop()
    key.write_text("no key")
    with pytest.raises(ProgramError, match="ended with 1"):
        server.start()
    assert server.log_text.splitlines()[-1].startswith(f"dropoff-tus: server.tls_key: {key} is no key in PEM")


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
