"""Addresses: those that exist are served, and for any other a sentence says why. Each test has a network of its own."""

import errno
import os
import socket
import sys
from pathlib import Path

import pytest

from server.http.listeners import ListenError, listen_on
from tests.support.network import in_own_network
from tests.support.server_process import REPOSITORY, ServerProcess, program

_PORT = 8080
_SERVE = """
import http.client, subprocess, sys, time
program, *addresses = sys.argv[1:]
serving = subprocess.Popen([program, "serve"], stdout=subprocess.PIPE, text=True)
print(serving.stdout.readline(), end="")
for address in addresses:
    connection = http.client.HTTPConnection(address, 8080, timeout=20)
    try:
        connection.request("OPTIONS", "/files/x")
        print(address, connection.getresponse().status)
    except ConnectionRefusedError:
        print(address, "refused")
serving.terminate()
sys.exit(serving.wait(20))
"""
_MAKE = """
import socket, subprocess, sys, time
make, taken = sys.argv[2:], int(sys.argv[1])
with socket.create_server(("127.0.0.1", taken)):
    refused = subprocess.run(make, capture_output=True, text=True)
print(refused.returncode, refused.stdout, refused.stderr, sep="|")
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerProcess:
    """Make a server's folder, and let the commands of this test find it."""
    server = ServerProcess(tmp_path)
    monkeypatch.setenv("DROPOFF_TUS_CONFIG", str(server.config))
    monkeypatch.setenv("DROPOFF_TUS__MONITORING__LISTEN", "127.0.0.1:8081")
    return server


@pytest.mark.parametrize(
    ("listen", "ipv6", "answers"),
    [
        ("localhost", True, {"127.0.0.1": 204, "::1": 204}),
        ("localhost", False, {"127.0.0.1": 204}),
        ("[::]", True, {"127.0.0.1": 204, "::1": 204}),
        ("[::]", False, {"127.0.0.1": 204}),
        ("0.0.0.0", True, {"127.0.0.1": 204, "::1": "refused"}),  # noqa: S104 - what is tested
    ],
)
def test_addresses_that_exist_are_served(
    made: ServerProcess, monkeypatch: pytest.MonkeyPatch, listen: str, ipv6: bool, answers: dict[str, int | str]
) -> None:
    """A name's address that exists; `[::]` is both families, or the one there is."""
    monkeypatch.setenv("DROPOFF_TUS__SERVER__LISTEN", f"{listen}:{_PORT}")
    done = in_own_network([sys.executable, "-c", _SERVE, program()[0], *answers], made.folder, ipv6=ipv6)
    told = "".join(f"{address} {answer}\n" for address, answer in answers.items())
    assert (done.returncode, done.stdout) == (0, f"ready http://{listen}:{_PORT}\n{told}"), done.stderr


@pytest.mark.parametrize(
    ("listen", "why"),
    [
        ("127.0.0.1:81", "the system does not let this user; write a port from 1024 up"),
        ("192.0.2.1:8080", "this machine has no such address; write one that it has, or 0.0.0.0"),
        ("[::1]:8080", "this machine has no such address; write one that it has, or 0.0.0.0"),
        ("unknown:8080", "no address of that name was found ("),
    ],
)
def test_address_that_cannot_be_had_is_a_sentence(
    made: ServerProcess, monkeypatch: pytest.MonkeyPatch, listen: str, why: str
) -> None:
    """Each reason has its own, which names the key and what to write; `check-config --listen` says the same."""
    monkeypatch.setenv("DROPOFF_TUS__SERVER__LISTEN", listen)
    for command in (["serve"], ["check-config", "--listen"]):
        unprivileged = ["setpriv", "--bounding-set=-all", *program(), *command]
        done = in_own_network(unprivileged, made.folder, ipv6=False)
        assert done.returncode == 1
        assert done.stderr.startswith(f"dropoff-tus: cannot listen on server.listen = {listen}: {why}")
        assert done.stderr.endswith(". Nothing was begun\n")


def test_kernel_without_ipv6_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not even a socket for it; an unknown error is shown as it is."""
    real = socket.socket

    def without(family: int = -1, *arguments: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(number, os.strerror(number))
        return real(family, *arguments)

    monkeypatch.setattr(socket, "socket", without)
    number = errno.EAFNOSUPPORT
    (listening,) = listen_on("::", 0, "x")
    listening.close()
    with pytest.raises(ListenError, match="this machine has no such address"):
        listen_on("::1", 0, "x")
    number = errno.ENOBUFS
    with pytest.raises(ListenError, match=r"cannot listen on x: No buffer space available\. Nothing was begun"):
        listen_on("::", 0, "x")


@pytest.mark.parametrize("port", [_PORT, _PORT + 1])
def test_make_run_shows_no_address_of_another_server(tmp_path: Path, port: int) -> None:
    """Neither when it would set up `./var` nor later; it says what to change."""
    make = [
        "make",
        "-C",
        str(tmp_path),
        "-f",
        str(REPOSITORY / "Makefile"),
        "-o",
        ".venv/.installed",
        "-o",
        "page",
        "-s",
    ]
    run = [*make, "run", f"BIN={Path(sys.executable).parent}"]
    first = in_own_network([sys.executable, "-c", _MAKE, str(port), *run], tmp_path, ipv6=True)
    status, said, why = first.stdout.split("|")
    assert (first.returncode, status, said) == (0, "2", "")
    assert f"127.0.0.1:{port}: another program listens there; stop it, or write another port" in why
    assert "make run LISTEN=127.0.0.1:9080" in why
    assert not (tmp_path / "var").exists()
    made = in_own_network([*program(), "init", "--dir", str(tmp_path / "var")], tmp_path, ipv6=True)
    assert made.returncode == 0, made.stderr
    later = in_own_network([sys.executable, "-c", _MAKE, str(port), *run], tmp_path, ipv6=True)
    status, said, why = later.stdout.split("|")
    assert (later.returncode, status, said) == (0, "2", "")
    assert f"listen = 127.0.0.1:{port}: another program listens there" in why
    assert "var/config.toml" in why
