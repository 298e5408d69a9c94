"""The messages of `drop create` for the uploader: in five languages, the link and the code apart."""

import pytest

from tests.support.server_process import ServerProcess, run_warm

_WORDS = {
    "en": ("asks you for files", "Type it there"),
    "nl": ("vraagt u om bestanden", "Typ hem daar in"),
    "de": ("bittet Sie um Dateien", "Geben Sie ihn dort ein"),
    "fr": ("vous demande des fichiers", "Saisissez-le"),
    "es": ("le pide archivos", "Escríbalo"),
}


def _say(server: ServerProcess, *options: str, institute: str = "Institute of Tests") -> list[str]:
    server.environment = {**server.environment, "PAGE__INSTITUTE": institute}
    return server.cli("drop", "create", "--name", "Cohort 7", *options).stdout.decode().splitlines()


@pytest.fixture
def own_server(server: ServerProcess) -> ServerProcess:
    """Return the same server with an environment of the test's own, for commands."""
    other = server.beside(server.folder)
    other.environment = dict(server.environment)
    return other


@pytest.mark.parametrize("language", list(_WORDS))
def test_create_says_what_to_tell_the_uploader(own_server: ServerProcess, language: str) -> None:
    """Two messages: link and code are each on a line of their own, and never in one message."""
    lines = _say(own_server, "--language", language)
    page = lines[0].split()[-1]
    code = next(line.split()[1] for line in lines if line.startswith("code: "))
    first = lines.index("To whoever uploads:")
    second = next(number for number, line in enumerate(lines) if line.startswith("By another way"))
    message, apart = "\n".join(lines[first:second]), "\n".join(lines[second:])
    asks, types = _WORDS[language]
    assert f"Institute of Tests {asks}" in message
    assert "Cohort 7" in message
    assert f"  {page}" in lines[first:second]
    assert code not in message
    assert types in apart
    assert f"  {code}" in lines[second:]


def test_create_without_a_code_says_one_message(own_server: ServerProcess) -> None:
    """With a link of which the page knows that it need not ask."""
    lines = _say(own_server, "--no-code", institute="")
    page = lines[0].split()[-1]
    assert f"  {page}#no-code" in lines
    assert "You are asked for files" in "\n".join(lines)
    assert "By another way" not in "\n".join(lines)


def test_language_comes_from_the_page_and_another_is_a_sentence(own_server: ServerProcess) -> None:
    """The institute's first one, and nothing is made where the page does not speak it."""
    own_server.environment = {**own_server.environment, "PAGE__LANGUAGES": "nl,en"}
    assert "vraagt u om bestanden" in "\n".join(_say(own_server))
    before = own_server.cli_json("drop", "list")
    done = own_server.cli("drop", "create", "--name", "x", "--language", "tlh", check=False)
    assert done.returncode == 1
    assert b"--language must be one of en, nl, de, fr, es" in done.stderr
    assert own_server.cli_json("drop", "list") == before
    assert b"nl|de" in run_warm("drop", "new-code", "--help", folder=own_server.folder).stdout


def test_new_code_says_it_too_and_shows_names_escaped(own_server: ServerProcess) -> None:
    """A name is the operator's own, and may have come from anywhere."""
    drop = own_server.create_drop(name="evil \x1b[2J name")
    said = own_server.cli("drop", "new-code", drop.id).stdout.decode()
    assert "To whoever uploads:" in said
    assert "\x1b" not in said
