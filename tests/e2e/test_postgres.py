"""The real program with its catalog in a real PostgreSQL, which goes away and comes back."""

import json
import shlex
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.answers import assert_head, assert_refused
from tests.e2e.test_quota import CROWD, ROOM, crowd
from tests.support.documents import run_by
from tests.support.postgres import OWNER, PostgresServer
from tests.support.server_process import ProgramError, ServerProcess, run_warm
from tests.support.tus_raw import TusSite, metadata

_PASSWORD = "hunter2"
_DATABASE = "with_password"  # the cluster's rules ask for passwords there


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    """Run a PostgreSQL with an empty database that asks for a password."""
    with PostgresServer() as server:
        server.sql(f"ALTER ROLE {OWNER} PASSWORD '{_PASSWORD}'")
        server.sql(f"CREATE DATABASE {_DATABASE}")
        yield server


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer) -> Iterator[ServerProcess]:
    """Run the program, made by `init` on that database."""
    url = postgres.url(_DATABASE).replace("@", f":{_PASSWORD}@")
    folder = tmp_path_factory.mktemp("on-postgres")
    settings = {"LIMITS__CONNECTIONS_PER_ADDRESS": str(2 * CROWD)}
    with ServerProcess(folder, environment=settings, init_options=["--catalog-url", url]) as server:
        yield server
        assert _PASSWORD not in server.logged()


def test_upload_goes_on_while_the_database_is_away_and_completes_after(
    running: ServerProcess, postgres: PostgresServer
) -> None:
    """Bytes are taken, what needs the catalog answers 503, and once it is back everything completes by itself."""
    site = running.drop.site
    url, whole = site.create(10), site.upload(b"before")
    assert site.patch(url, 0, b"hel").status == 204
    postgres.stop()
    try:
        assert site.patch(url, 3, b"lo").status == 204
        assert site.head(url).offset == 5
        began = time.monotonic()
        page = site.request("GET", f"{running.drop.page_url}/info", {"Dropoff-Code": site.code})
        for answer in (page, site.post({"Upload-Length": "5"}), site.patch(url, 5, b"world")):
            refused = assert_refused(answer, 503, "ERR_CATALOG_UNAVAILABLE")
            assert int(refused.needed("Retry-After")) >= 1
        # All bytes are here, but no answer may call the upload complete.
        assert int(assert_head(site.head(url), 423).needed("Retry-After")) >= 1
        assert time.monotonic() - began < 10
    finally:
        postgres.start()
    deadline = time.monotonic() + 20
    while site.head(url).status != 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert site.head(url).offset == 10
    assert running.row(url)["state"] == "complete"
    assert running.export(url) == b"helloworld"
    assert running.export(whole) == b"before"
    assert running.export(site.upload(b"after")) == b"after"
    assert "the catalog does not answer" in running.logged()
    assert "Traceback" not in running.log_text


def test_server_does_not_start_without_its_database(running: ServerProcess, postgres: PostgresServer) -> None:
    """A missing database gives a sentence, and nothing gets ready."""
    running.stop()
    postgres.stop()
    try:
        done = running.cli("serve", check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(b"dropoff-tus: ")
        assert b"Traceback" not in done.stderr
        assert done.stdout == b""
        checked = running.cli("check-config", check=False)
        assert checked.returncode == 1
        assert checked.stderr.startswith(b"dropoff-tus: catalog.url: cannot open the catalog in PostgreSQL's")
    finally:
        postgres.start()
        running.start()


def test_commands_work_beside_the_server(running: ServerProcess) -> None:
    """Changes by the command line hold for the next request at once."""
    assert b"up to date" in running.cli("migrate").stdout
    running.cli("check-config")
    drop = running.create_drop(name="other")
    assert drop.id in {row["id"] for row in running.cli_json("drop", "list")}
    first = drop.site.upload(b"one")
    code = running.cli_json("drop", "new-code", drop.id)["code"]
    assert_refused(drop.site.post({"Upload-Length": "5"}), 403)
    assert drop.site.post({"Upload-Length": "5", "Dropoff-Code": code}).status == 201
    running.cli("drop", "close", drop.id)
    assert_refused(drop.site.post({"Upload-Length": "5", "Dropoff-Code": code}), 403)
    running.cli("upload", "delete", running.row(first)["id"], "--yes")
    assert_head(drop.site.head(first), 410)


def test_drop_edited_holds_for_the_next_upload(running: ServerProcess) -> None:
    """By another process, on all terms: limits, mode, recipients, code, lists and times; and the audit tells which."""
    drop = running.create_drop(name="before")
    first, anyone = drop.site.create(5), TusSite(drop.upload_url, None)
    recipient = running.cli_json("keys", "generate", "--output", str(running.data / "other-root"))["recipient"]
    edited = running.cli_json(
        *("drop", "edit", drop.id, "--name", "Kohorte ✓", "--sealed", "--recipient", recipient, "--no-code"),
        *("--max-upload-bytes", "4", "--allow-name", "*.csv", "--notify", "a@example.org", "--retain", "1d"),
        *("--expires", "2090-01-31T12:00:00Z", "--contact", "Ada"),
    )
    assert running.cli_json("drop", "show", drop.id) == {**edited, "uploads": 1, "bytes": 5}
    assert (edited["name"], edited["mode"], edited["has_code"]) == ("Kohorte ✓", "sealed", False)
    assert anyone.post({"Upload-Length": "5"}).status == 413
    named = {"Upload-Length": "4", "Upload-Metadata": metadata(filename="a.csv")}
    assert_refused(anyone.post({**named, "Upload-Metadata": metadata(filename="a.txt")}), 422)
    second = anyone.post(named).needed("Location")
    for url, content in ((first, b"hello"), (second, b"seal")):
        assert anyone.patch(url, 0, content).status == 204
    assert running.export(first) == b"hello"
    assert running.cli("upload", "export", second, "--output", "-", check=False).returncode == 1
    identity = ("--identity", str(running.data / "other-root"))
    assert running.cli("upload", "export", second, "--output", "-", *identity).stdout == b"seal"
    (told,) = [row for row in running.cli_json("audit", "export")["rows"] if row["act"] == "drop.edit"]
    assert set(told["result"].split()) == {
        *("name", "mode", "recipients", "has_code", "max_upload_bytes", "name_patterns", "notify", "retain_seconds"),
        *("expires_at", "contact"),
    }
    assert running.cli_json("audit", "verify")["changed_drops"] == []


def test_quota_lets_exactly_so_many_of_a_crowd_in(running: ServerProcess) -> None:
    """Two hundred at once against a hundred."""
    drop = running.create_drop("--max-uploads", str(ROOM), name="crowded")
    answers = crowd(drop.site, {"Upload-Length": "10"})
    assert Counter(answer.status for answer in answers) == {201: ROOM, 403: CROWD - ROOM}
    assert running.cli_json("drop", "show", drop.id)["uploads"] == ROOM


def test_close_now_stops_what_runs_within_five_seconds(running: ServerProcess) -> None:
    """From another process: the next POST is refused, and a PATCH that runs gets its 410."""
    drop = running.create_drop(name="closing")
    site, url = drop.site, drop.site.create(1_000_000)
    with site.connect() as connection:
        headers = site.patch_headers(0, {"Content-Length": "1000000"})
        connection.send(site.message("PATCH", url, headers, b"hello"))
        while site.head(url).offset == 0:
            time.sleep(0.1)
        running.cli("drop", "close", drop.id, "--now")
        closed_at = time.monotonic()
        assert_refused(site.post({"Upload-Length": "5"}), 403, "ERR_DROPOFF_CLOSED")
        assert_refused(connection.read_response(), 410)
        assert time.monotonic() - closed_at < 5


@pytest.mark.usefixtures("running")
def test_init_on_a_database_in_use_is_refused_and_says_no_password(postgres: PostgresServer, tmp_path: Path) -> None:
    """Another server's drop-offs are not taken over, and nothing is left behind."""
    url = postgres.url(_DATABASE).replace("@", f":{_PASSWORD}@")
    with pytest.raises(ProgramError, match="in use already, under keys that are elsewhere") as caught:
        ServerProcess(tmp_path, init_options=["--catalog-url", url])
    assert _PASSWORD not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_wrong_password_is_a_sentence_without_it(running: ServerProcess, postgres: PostgresServer) -> None:
    """Every command that needs the catalog says what is wrong, in one line, and repeats no part of the URL's secret."""
    before = running.environment
    running.environment = {"CATALOG__URL": postgres.url(_DATABASE).replace("@", ":swordfish@")}
    try:
        for command in (("drop", "list"), ("migrate",), ("upload", "list")):
            done = running.cli(*command, check=False)
            said = (done.stdout + done.stderr).decode()
            assert done.returncode != 0
            assert "refuses the user or the password" in said
            assert "Traceback" not in said
            assert "swordfish" not in said
    finally:
        running.environment = before


def test_documented_commands_make_the_tables_and_bring_them_up_to_date(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """As docs/operate/postgresql.md has them."""
    postgres.sql("CREATE DATABASE dropoff")
    config = tmp_path / "new" / "config.toml"
    said = b""
    for block in run_by(__file__, "docs/operate/postgresql.md"):
        words = shlex.split(
            block.replace("/srv/dropoff", str(config.parent)).replace("/run/postgresql", str(postgres.folder))
        )
        given = dict(word.split("=", 1) for word in words[: words.index("dropoff-tus")])
        command = words[words.index("dropoff-tus") + 1 :]
        done = run_warm(*command, folder=tmp_path, environment={"DROPOFF_TUS_CONFIG": str(config), **given})
        assert done.returncode == 0, done.stderr
        said = done.stdout
    assert b"up to date" in said
    assert postgres.sql("SELECT count(*) FROM dropoffs", database="dropoff") == ["1"]


def test_doctor_names_the_rights_that_its_role_lacks_or_should_not_have(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    """With the statement to run as the owner; a role with just the right ones is passed over."""
    postgres.sql("CREATE DATABASE rights")
    server = ServerProcess(tmp_path, init_options=["--catalog-url", postgres.url("rights")])
    postgres.sql(
        "CREATE ROLE web LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO web; "
        "REVOKE INSERT ON outbox FROM web",
        database="rights",
    )
    server.environment = {"CATALOG__URL": postgres.url("rights", "web")}
    done = json.loads(server.cli("doctor", "--json", check=False).stdout)
    lacking, needless = [check for check in done["checks"] if check["check"] == "database"]
    assert (lacking["status"], needless["status"]) == ("problem", "warning")
    assert "may not INSERT ON outbox: uploads are refused with 503" in lacking["detail"]
    assert lacking["advice"] == "as the owner of the tables: GRANT INSERT ON outbox TO the role"
    assert "REVOKE DELETE ON audit FROM the role" in needless["advice"]
    postgres.sql(
        "GRANT INSERT ON outbox TO web; REVOKE UPDATE, DELETE ON audit, checkpoints FROM web", database="rights"
    )
    done = json.loads(server.cli("doctor", "--json", check=False).stdout)
    assert [check for check in done["checks"] if check["check"] == "database"] == []
    assert "keys" in {check["check"] for check in done["checks"]}
