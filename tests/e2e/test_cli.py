"""The command line: its answers, and that nothing a person can type or break ends in a traceback."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.server_process import Drop, ServerProcess, program, run_warm
from tests.support.signals import signals_at_start
from tests.support.tus_raw import metadata

_NOBODY = "0" * 32
_INIT = ("init", "--dir", "d", "--listen", "192.0.2.1:8080", "--json")  # an address that nothing can have


def _redirected(server: ServerProcess, script: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run the real program below a shell, whose script says `"$@"` and where the output goes."""
    command = [*program(), "--config", str(server.config), *arguments]
    return subprocess.run(
        ["bash", "-c", script, "bash", *command],
        cwd=server.folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


# ---- what nobody meant --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("drop show xyz", "there is no such drop-off"),
        ("drop close xyz", "there is no such drop-off"),
        ("drop reopen xyz", "there is no such drop-off"),
        ("drop new-code xyz", "there is no such drop-off"),
        ("drop create --name x --id 7", "--id must be a UUID of version 4"),
        ("drop create --name x --expires soon", "--expires is not a time; write a duration from now such as"),
        ("drop create --name x --expires 2001-01-01T00:00:00Z", "--expires lies in the past"),
        ("drop create --name x --max-total-bytes lots", "--max-total-bytes is not a size"),
        ("drop create --name x --max-upload-bytes 99999PiB", "--max-upload-bytes must be from 0 to"),
        ("drop create --name x --recipient age1nonsense", "a recipient starts with age1"),
        ("upload list --drop xyz", "there is no such drop-off"),
        ("upload show xyz", "that is no upload id, token or upload URL"),
        (f"upload show {_NOBODY}", "there is no such upload"),
        (f"upload export {_NOBODY} --output there", "there is no such upload"),
        (f"upload export {_NOBODY} --output there --range 5-1", "--range must be START-END"),
        (f"upload export {_NOBODY} --output there --range x", "--range must be START-END"),
        (f"upload export {_NOBODY} --output - --json", "both want stdout"),
        (f"upload export {_NOBODY} --output there --identity /nowhere", "cannot read the identity file /nowhere"),
        (f"upload export {_NOBODY} --output there --identity /etc/passwd", "/etc/passwd:"),
        (f"upload delete {_NOBODY}", "there is nobody to ask; say --yes"),
        (f"upload delete {_NOBODY} --yes", "there is no such upload"),
        (f"upload receipt {_NOBODY}", "there is no such upload"),
        ("store check xyz", "that is no upload id, token or upload URL"),
    ],
)
def test_nonsense_is_answered_with_a_sentence(limited: ServerProcess, line: str, said: str) -> None:
    """On stderr, with a non-zero exit, nothing on stdout, and never a traceback."""
    done = limited.cli(*line.split(), check=False)
    assert done.returncode == 1
    assert done.stdout == b""
    message = done.stderr.decode()
    assert message.startswith("dropoff-tus: ")
    assert said in message
    assert "Traceback" not in message
    assert not (limited.folder / "there").exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--config /nowhere/config.toml drop list", "there is no configuration at /nowhere/config.toml"),
        ("drop list", "there is no configuration at config.toml; make one with `dropoff-tus init --dir DIR`"),
        ("--config / upload list", "cannot read the configuration /: Is a directory"),
        ("verify-receipt /nowhere --key AAAA", "is not 32 bytes of base64"),
        ("verify-receipt /nowhere", "--key is missing"),
        ("init --dir /proc/x --listen 192.0.2.1:80", "cannot make a folder in /proc"),
        (f"init --dir /proc/{'x' * 300} --listen 192.0.2.1:80", "cannot make a folder in /proc:"),
        ("init --dir x --listen 8080", "--listen must be HOST:PORT"),
        ("init --dir x --key-type rsa", "--key-type must be hybrid or x25519"),
    ],
)
def test_nonsense_without_a_configuration_is_answered_with_a_sentence(tmp_path: Path, line: str, said: str) -> None:
    """The same where there is nothing to open."""
    done = run_warm(*line.split(), folder=tmp_path)
    assert done.returncode == 1
    message = done.stderr.decode()
    assert message.startswith("dropoff-tus: ")
    assert said in message
    assert list(tmp_path.iterdir()) == []


def test_wrong_command_line_exits_with_2_and_points_at_help(tmp_path: Path) -> None:
    """A wrong command line differs from work that failed."""
    for line in ("nonsense", "drop nonsense", "drop create", "drop list --nonsense"):
        done = run_warm(*line.split(), folder=tmp_path)
        assert done.returncode == 2, line
        assert b"--help" in done.stderr


def test_unreadable_configuration_keys_and_folders_are_sentences(tmp_path: Path) -> None:
    """Damage around the program is reported with the file's name."""
    server = ServerProcess(tmp_path)
    secret = server.data / "secrets" / "signing-key"
    secret.chmod(0o644)
    done = server.cli("drop", "create", "--name", "x", check=False)
    assert done.returncode == 1
    assert f"chmod 600 {secret}" in done.stderr.decode()
    secret.unlink()
    for line in ("upload list", "keys show", "check-config", f"drop new-code {server.drop.id}"):
        done = server.cli(*line.split(), check=False)
        assert done.returncode == 1, line
        assert str(secret) in done.stderr.decode()
        assert b"Traceback" not in done.stderr
    (server.data / "catalog.sqlite3").write_bytes(b"this is no database" * 100)
    done = server.cli("drop", "list", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"dropoff-tus: ")
    assert b"Traceback" not in done.stderr


# ---- streams and signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ('"$@" >&-', b"nowhere to answer; nothing was done"),
        ('"$@" >/dev/full', b"could not be written to stdout"),
    ],
    ids=["closed", "full"],
)
def test_answer_that_cannot_be_written_is_an_error(limited: ServerProcess, script: str, said: bytes) -> None:
    """A code is shown once: closed or full, stdout must not swallow it with exit code 0."""
    done = _redirected(limited, script, "drop", "list")
    assert done.returncode == 1
    assert said in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


def test_reader_that_goes_away_ends_the_command_quietly(limited: ServerProcess) -> None:
    """`| head` is no mistake."""
    assert _redirected(limited, '"$@" | true', "drop", "list").stderr == b""


def test_output_of_a_pipe_is_plain(limited: ServerProcess) -> None:
    """No colour, no bar, no control character where a program reads."""
    url = limited.drop.site.upload(b"hello")
    for line in (("drop", "list"), ("upload", "list"), ("upload", "show", url), ("store", "check")):
        done = limited.cli(*line)
        assert b"\x1b" not in done.stdout + done.stderr


# ---- finding the configuration ------------------------------------------------------------------------------------


def test_config_is_taken_before_and_after_the_command(tmp_path: Path) -> None:
    """And from the variable; the nearest to the command wins."""
    made = json.loads(run_warm(*_INIT, folder=tmp_path).stdout)
    config, drop = made["config"], made["drop"]["id"]
    lines = (
        ("--config", config, "drop", "list", "--json"),
        ("drop", "--config", config, "list", "--json"),
        ("drop", "list", "--json", "--config", config),
        ("--config", "/nowhere", "drop", "list", "--json", "--config", config),
    )
    for line in lines:
        assert json.loads(run_warm(*line, folder=tmp_path).stdout)[0]["id"] == drop
    variable = {"DROPOFF_TUS_CONFIG": config}
    assert json.loads(run_warm("drop", "list", "--json", folder=tmp_path, environment=variable).stdout)[0]["id"] == drop


def test_init_stays_in_its_folder_whatever_the_environment_says(tmp_path: Path) -> None:
    """Overrides are for the running server; new files must be whole and in their folder."""
    outside = tmp_path / "outside"
    overrides = {
        "STORE__DIR": str(outside / "store"),
        "STORE__KEYS_DIR": str(outside / "keys"),
        "CATALOG__URL": f"sqlite:///{outside}/catalog.sqlite3",
        "KEYS__INGEST_DIR": str(outside / "ingest"),
        "KEYS__SIGNING_KEY": str(outside / "signing-key"),
        "SERVER__PUBLIC_URL": "https://drop.example/x",
    }
    environment = {f"DROPOFF_TUS__{name}": value for name, value in overrides.items()}
    done = run_warm(*_INIT, folder=tmp_path, environment=environment)
    made = json.loads(done.stdout)
    assert not outside.exists()
    assert (tmp_path / "d" / "catalog.sqlite3").exists()
    assert made["drop"]["upload_url"].startswith("https://drop.example/x/files/")
    listed = run_warm("--config", made["config"], "drop", "list", "--json", folder=tmp_path)
    assert json.loads(listed.stdout)[0]["id"] == made["drop"]["id"]


def test_check_config_tells_every_mistake(tmp_path: Path) -> None:
    """The file's, the environment's, the keys' and the catalog's; without any it says so."""
    server = ServerProcess(tmp_path)
    clean = server.cli("check-config")
    assert (clean.stdout.decode(), clean.stderr) == (f"{server.config}: no mistakes\n", b"")
    assert server.cli_json("check-config") == {"mistakes": [], "remarks": []}
    server.environment = {"LIMITS__CONNECTIONS": "1000000000"}
    assert "4000000256 descriptors" in server.cli_json("check-config")["remarks"][0]
    server.environment = {}
    text = server.config.read_text()
    server.config.write_text(text.replace('listen = "', 'lissten = "', 1) + "[log]\nlevel = 5\n")
    done = server.cli("check-config", check=False)
    assert done.returncode == 1
    assert b"server.lissten: there is no such key; did you mean server.listen?" in done.stderr
    assert b"log.level: must be" in done.stderr
    answer = server.cli("check-config", "--json", check=False)
    assert answer.returncode == 1
    assert len(json.loads(answer.stdout)["mistakes"]) == 2
    server.config.write_text(text.replace("sqlite:///catalog", "mysql://catalog").replace("age1", "age2"))
    (server.data / "secrets" / "code-key").unlink()
    said = json.loads(server.cli("check-config", "--json", check=False).stdout)["mistakes"]
    assert sorted(line.partition(":")[0] for line in said) == ["catalog.url", "keys.code_key", "keys.root_recipients"]


def test_check_config_tells_mistakes_of_every_depth_in_one_run(tmp_path: Path) -> None:
    """A misspelt key does not hide a wrong one, nor that one a key that cannot be read; nothing is reported twice."""
    server = ServerProcess(tmp_path)
    text = server.config.read_text().replace(
        "[server]\n", '[server]\ntls_cert = "none"\ntls_key = "none"\nlissten = 1\n'
    )
    server.config.write_text(text.replace("code_key = ", "code_key = 5 #") + '[webhook]\nsecret = "none"\n')
    secrets = server.data / "secrets"
    (secrets / "signing-key").chmod(0o644)
    (secrets / "managed-identity.txt").write_bytes("é".encode("latin-1"))
    server.environment = {
        "WEBHOOK__URL": "https://portal.example/hooks",
        "MAIL__SERVER": "mail.example:25",
        "CATALOG__URL": "sqlite:///nowhere/at/all",
    }
    said = json.loads(server.cli("check-config", "--json", check=False).stdout)["mistakes"]
    assert sorted(line.partition(":")[0] for line in said) == [
        *("catalog.url", "keys.code_key", "keys.managed_identity", "keys.signing_key", "mail", "server.lissten"),
        *("server.tls_cert", "server.tls_key", "webhook.secret"),
    ]


def test_check_config_names_a_folder_that_is_missing_or_another_stores(tmp_path: Path) -> None:
    """Before the first start it is made; afterwards it is a volume that is not mounted. Nothing is made by looking."""
    server = ServerProcess(tmp_path)
    store = server.data / "store"
    folders = {"STORE__DIR": str(tmp_path / "new"), "STORE__KEYS_DIR": str(tmp_path / "new-keys")}
    server.environment = {**folders, "CATALOG__URL": f"sqlite:///{tmp_path}/new.sqlite3"}
    server.cli("migrate")
    remarks = [
        f"store.dir: there is no folder {tmp_path / 'new'}; for a new store it is made when it is needed",
        f"store.keys_dir: there is no folder {tmp_path / 'new-keys'}; for a new store it is made when it is needed",
    ]
    assert server.cli_json("check-config")["remarks"] == remarks
    server.environment = {**folders, "CATALOG__URL": f"sqlite:///{tmp_path}/none.sqlite3"}
    said = json.loads(server.cli("check-config", "--json", check=False).stdout)
    assert ([line.partition(":")[0] for line in said["mistakes"]], said["remarks"]) == (["catalog.url"], remarks)
    assert not (tmp_path / "new").exists()
    server.environment = {}
    server.cli("check-config")
    store.rename(tmp_path / "away")
    done = server.cli("check-config", check=False)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"dropoff-tus: store: there is no folder {store}")
    assert not store.exists()
    (tmp_path / "away").rename(store)
    server.cli("check-config")


def test_check_config_names_folders_and_files_that_cannot_be_used(tmp_path: Path) -> None:
    """Unusable folders and mail authorities: otherwise the first upload or mail would show them."""
    server = ServerProcess(tmp_path)
    (tmp_path / "none.pem").write_text("none")
    server.environment = {
        "KEYS__INGEST_DIR": str(tmp_path / "none.pem" / "ingest"),
        "MAIL__SERVER": "mail.example:25",
        "MAIL__SENDER": "drop@example.org",
        "MAIL__CA_FILE": str(tmp_path / "none.pem"),
    }
    said = json.loads(server.cli("check-config", "--json", check=False).stdout)["mistakes"]
    assert [line.partition(";")[0] for line in said] == [
        f"mail.ca_file: {tmp_path / 'none.pem'} cannot be used (NO_CERTIFICATE_OR_CRL_FOUND)",
        f"keys.ingest_dir: {tmp_path / 'none.pem'} is no folder that this user can write to",
    ]


def test_check_config_asks_the_catalog(tmp_path: Path) -> None:
    """One that has no tables, is damaged, or does not answer keeps the server from starting, and is reported before."""
    server = ServerProcess(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        closed = socket.create_server(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        closed.close()
        (tmp_path / "empty").touch()
        (tmp_path / "damaged").write_bytes(b"this is no database" * 100)
        for url, why in (
            (f"sqlite:///{tmp_path}/empty", "run `dropoff-tus migrate`"),
            (f"sqlite:///{tmp_path}/damaged", "cannot open the catalog"),
            (f"postgresql://u:hunter2@127.0.0.1:{port}/db", "cannot open the catalog in PostgreSQL's db"),
            (f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/db", "it does not answer in time"),
        ):
            server.environment = {"CATALOG__URL": url}
            done = server.cli("check-config", check=False)
            assert done.returncode == 1
            assert done.stderr.startswith(b"dropoff-tus: catalog.url: ")
            assert why in done.stderr.decode()
            assert b"hunter2" not in done.stderr


# ---- what clients chose -------------------------------------------------------------------------------------------


def test_client_text_never_steers_the_terminal(limited: ServerProcess) -> None:
    """Control and bidirectional characters and line ends of a file name are shown escaped, markup as it is."""
    name = "a\x1b[31mb\u202ec\r\n[bold]d[/bold]\u2028e\\x1b"
    url = limited.drop.site.upload(b"hello", {"Upload-Metadata": metadata(filename=name)})
    shown = "a\\x1b[31mb\\u202ec\\r\\n[bold]d[/bold]\\u2028e\\\\x1b"
    assert limited.cli("upload", "show", url).stdout.decode().splitlines()[3] == f"filename: {shown}"
    (line,) = (line for line in limited.cli("upload", "list").stdout.decode().splitlines() if "[bold]" in line)
    assert line.endswith(shown)
    assert limited.row(url)["filename"] == name


def test_name_of_a_dropoff_is_shown_escaped(limited: ServerProcess) -> None:
    """Operators of one server need not trust each other's terminals."""
    made = limited.create_drop(name="x\x1b]0;title\x07")
    assert b"\x1b" not in limited.cli("drop", "list").stdout
    assert b"\\x1b]0;title\\x07" in limited.cli("drop", "show", made.id).stdout


def test_dropoff_is_shown_in_words(limited: ServerProcess) -> None:
    """An unset value shows its meaning, not a program's notation."""
    made = limited.create_drop("--allow-type", "text/csv", "--allow-type", "image/*")
    shown = limited.cli("drop", "show", made.id).stdout.decode().splitlines()
    assert {"closed: no", "allowed_types: text/csv, image/*", "name_patterns: any", "contact: -"} <= set(shown)


# ---- every command teaches ----------------------------------------------------------------------------------------


def test_every_command_has_an_example_and_those_that_answer_have_json(tmp_path: Path) -> None:
    """`--help` is the manual."""
    groups = {"": ["init", "serve", "check-config", "migrate", "verify-receipt", "doctor"]}
    groups["drop"] = ["create", "list", "show", "close", "reopen", "new-code", "export"]
    groups["upload"] = ["list", "show", "export", "delete", "receipt"]
    groups["store"] = ["check", "sweep"]
    groups["keys"] = ["generate", "show"]
    for group, commands in groups.items():
        for command in commands:
            line = [part for part in (group, command) if part]
            text = run_warm(*line, "--help", folder=tmp_path).stdout.decode()
            assert f"Example: dropoff-tus {' '.join(line)}" in " ".join(text.split()), line
            assert command == "serve" or "--json" in text, line


def _run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code with the program's own Python, away from this process's imports."""
    python = Path(program()[0]).with_name("python")
    return subprocess.run([python, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


def test_help_does_not_load_what_it_does_not_need(tmp_path: Path) -> None:
    """A shell's completion and a person wait for it: no web server, database toolkit, cipher or model library."""
    code = (
        "import sys; from server.cli.main import main\n"
        "sys.argv = ['dropoff-tus', '--help']\n"
        "try: main()\n"
        "finally: print({'aiohttp', 'sqlalchemy', 'cryptography', 'pydantic', 'asyncpg', 'structlog', 'rich'}"
        " & sys.modules.keys())"
    )
    done = _run_python(code, tmp_path)
    assert done.stdout.splitlines()[-1] == "set()", done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_a_command_without_a_traceback(limited: ServerProcess, number: signal.Signals) -> None:
    """The exit code says which; its unfinished file is gone (here: one that waits for its reader)."""
    url = limited.drop.site.upload(os.urandom(3_000_000))
    command = [*program(), "--config", str(limited.config), "upload", "export", url, "--output", "-"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=limited.folder,
        preexec_fn=signals_at_start(),  # noqa: PLW1509 - it calls nothing but signal()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert len(process.stdout.read(1)) == 1
        time.sleep(0.2)
        process.send_signal(number)
        assert process.wait(10) == 128 + number
        assert process.stderr.read() == b""


def test_interrupt_while_the_program_is_being_imported_is_no_traceback(tmp_path: Path) -> None:
    """It takes a moment, in which someone may have seen the typing mistake."""
    code = (
        "import os, signal, sys; from server.cli.__main__ import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting()); sys.argv = ['dropoff-tus', '--help']; main()"
    )
    done = _run_python(code, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_drop_commands_answer_in_json(limited: ServerProcess, limited_drop: Drop) -> None:
    """Scripts read every answer."""
    made = limited.create_drop("--expires", "2100-01-31T12:00:00+02:00", "--max-uploads", "3", name="json")
    shown = limited.cli_json("drop", "show", made.id)
    assert (shown["expires_at"], shown["max_uploads"], shown["closed"]) == ("2100-01-31T10:00:00Z", 3, False)
    assert limited.cli_json("drop", "close", made.id)["closed"] is True
    assert limited.cli_json("drop", "reopen", made.id)["closed"] is False
    assert limited.cli_json("drop", "new-code", made.id)["code"] != made.code
    assert limited.cli_json("migrate") == {"applied": []}
    assert {limited_drop.id, made.id} <= {item["id"] for item in limited.cli_json("drop", "list")}
