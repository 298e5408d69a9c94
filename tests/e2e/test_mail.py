"""Mail of the real server, by a real SMTP server with STARTTLS and a password."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import needles
from tests.support.certificate import make_certificate
from tests.support.mail_server import PASSWORD, USER, MailServer
from tests.support.server_process import ServerProcess, token_of, upload_id_of
from tests.support.tus_raw import metadata

_NAME = "name-marker-77c1.txt"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a certificate that the system does not know."""
    return make_certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def mail(certificate: tuple[Path, Path]) -> Iterator[MailServer]:
    """Run one mail server."""
    with MailServer(certificate) as running:
        yield running


@pytest.fixture(scope="module")
def mailing(
    mail: MailServer, certificate: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Run one server that sends mail."""
    folder = tmp_path_factory.mktemp("mailing")
    secret = folder / "mail-password"
    secret.write_text(f"{PASSWORD}\n")
    secret.chmod(0o600)
    settings = {
        "MAIL__SERVER": f"localhost:{mail.port}",
        "MAIL__CA_FILE": str(certificate[0]),
        "MAIL__USERNAME": USER,
        "MAIL__PASSWORD": str(secret),
        "MAIL__SENDER": "drop@example.org",
        "MAIL__EHLO": "drop.example.org",
        "MAIL__INTERVAL": "0",
    }
    with ServerProcess(folder, environment=settings) as running:
        yield running


def test_those_whom_a_drop_off_names_get_mail_without_names_of_files(mailing: ServerProcess, mail: MailServer) -> None:
    """One message, with the id by which the operator finds the upload; nobody else gets one."""
    drop = mailing.create_drop("--notify", "data@example.org", "--notify", "second@example.org", name="Cohort 7")
    assert mailing.cli_json("drop", "show", drop.id)["notify"] == ["data@example.org", "second@example.org"]
    urls = []
    for site in (mailing.drop.site, drop.site):
        sent = {"Upload-Length": "7", "Upload-Metadata": metadata(filename=_NAME)}
        answer = site.post({**sent, "Content-Type": "application/offset+octet-stream"}, b"content")
        urls.append(str(answer.header("Location")))
    (message,) = mail.wait_for(1)
    assert set(mail.greeted_by) == {"drop.example.org"}
    assert message["To"] == "data@example.org, second@example.org"
    assert message["Subject"] == "Cohort 7: 1 upload"
    text = message.get_content()
    assert upload_id_of(urls[1]) in text
    assert "7 bytes" in text
    secrets = (_NAME, token_of(urls[1]), drop.code or "")
    assert not any(needle in message.as_bytes() for secret in secrets for needle in needles.of_text(secret))
    assert mailing.cli_json("outbox", "list") == []
    places = [*mailing.data.glob("catalog*"), *mailing.folder.glob("serve.*")]
    hidden = (*secrets, PASSWORD)
    assert needles.find((needle for text in hidden for needle in needles.of_text(text)), places) == []


@pytest.mark.parametrize("address", [" ", "nobody", "a@b\r\nBcc: c@d", "Name <a@b>", "ü@example.org"])
def test_notify_that_is_no_address_is_told_and_makes_nothing(mailing: ServerProcess, address: str) -> None:
    """One sentence that names the option."""
    before = len(mailing.cli_json("drop", "list"))
    done = mailing.cli("drop", "create", "--name", "x", "--notify", address, check=False)
    assert (done.returncode, b"--notify is not a mail address" in done.stderr) == (1, True)
    assert len(mailing.cli_json("drop", "list")) == before
