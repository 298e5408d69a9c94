"""Text files that commands are given: a byte order mark changes nothing, UTF-16 is named, lists are as age's."""

import codecs
import json
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess, run_warm


@pytest.fixture(scope="module")
def texts(limited: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the content of a file of each kind, and the lines that are given them."""
    folder = tmp_path_factory.mktemp("texts")
    url = limited.drop.site.upload(b"hello")
    sealed = limited.create_drop("--sealed", name="sealed").site.upload(b"hello")
    limited.cli("keys", "generate", "--output", str(folder / "identity"), "--key-type", "x25519")
    drop = limited.create_drop(name="gone").id
    return {
        "receipt": limited.cli("upload", "receipt", url).stdout.decode(),
        "certificate": limited.cli("drop", "purge", drop, "--yes", "--output", "-").stdout.decode(),
        "anchor": limited.cli("audit", "export").stdout.decode(),
        "document": limited.cli("audit", "export", "--json").stdout.decode(),
        "key": limited.cli("keys", "show").stdout.decode(),
        "identity": (limited.data / "root-identity.txt").read_text(),
        "sealed": sealed,
    }


def _line(kind: str, texts: dict[str, str], path: Path) -> list[str]:
    file, key = str(path), texts["key"].strip()
    return {
        "receipt": ["verify-receipt", file, "--key", key],
        "certificate": ["verify-certificate", file, "--key", key],
        "anchor": ["audit", "verify", "--anchor", file],
        "document": ["audit", "verify", "--anchor", file],
        "key": ["store", "check", "--quick", "--key", file],
        "identity": ["upload", "export", texts["sealed"], "--output", "-", "--identity", file],
    }[kind]


_KINDS = pytest.mark.parametrize("kind", ["receipt", "certificate", "anchor", "document", "key", "identity"])


def _run(limited: ServerProcess, line: list[str]) -> tuple[int, str]:
    config = [] if line[0].startswith("verify") else ["--config", str(limited.config)]
    done = run_warm(*line, *config, folder=limited.folder)
    return done.returncode, done.stderr.decode()


@_KINDS
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_text_with_a_byte_order_mark_is_as_good_as_without(
    limited: ServerProcess, tmp_path: Path, texts: dict[str, str], kind: str, ending: str
) -> None:
    """Editors and mail programs put marks and line ends of theirs in."""
    path = tmp_path / kind
    path.write_bytes(texts[kind].replace("\n", ending).encode("utf-8-sig"))
    status, message = _run(limited, _line(kind, texts, path))
    assert status == 0, message


@_KINDS
@pytest.mark.parametrize(
    ("encoding", "said"), [("utf-16", "is UTF-16"), ("utf-16-be", "is UTF-16"), ("cp037", "not UTF-8")]
)
def test_text_in_another_encoding_is_named_and_not_called_changed(
    limited: ServerProcess, tmp_path: Path, texts: dict[str, str], kind: str, encoding: str, said: str
) -> None:
    """It says which file, and what to do."""
    path = tmp_path / kind
    path.write_bytes(texts[kind].encode(encoding))
    status, message = _run(limited, _line(kind, texts, path))
    assert (status, said in message, "save it as UTF-8" in message) == (1, True, True), message
    assert str(path) in message
    assert "changed" not in message


# ---- recipients -----------------------------------------------------------------------------------------------------

_ANNA = "age1usecqrawls4v39punxkflqywp8yxp7fse7ejhdvufp26a7x8v35qe3wjwu"
_BERT = "age1geevru6jzwx6j66ynpv8twdt9x8a5e3z2ylwmmfa7app3hqc9azqvx05yn"


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_recipients_come_one_a_line_with_comments(limited: ServerProcess, tmp_path: Path, ending: str) -> None:
    """As `age -R` takes them: at `init`, for a drop-off, and in the file that a variable names."""
    path = tmp_path / "recipients.txt"
    lines = ["# for the institute", _ANNA, "", f"  {_BERT}", "#age1nobody"]
    path.write_bytes(codecs.BOM_UTF8 + ending.join(lines).encode())
    drop = limited.create_drop("--recipient", str(path), name="of a file").id
    assert limited.cli_json("drop", "show", drop)["recipients"] == [_ANNA, _BERT]
    limited.cli("drop", "edit", drop, "--recipient", _BERT)
    assert limited.cli_json("drop", "edit", drop, "--recipient", str(path))["recipients"] == [_ANNA, _BERT]
    assert limited.cli_json("drop", "edit", drop, "--recipient", "")["recipients"] == []
    made = run_warm("init", "--dir", "d", "--recipient", str(path), folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert f'root_recipients = ["{_ANNA}", "{_BERT}"]' in (tmp_path / "d" / "config.toml").read_text()
    variable = {"DROPOFF_TUS__KEYS__ROOT_RECIPIENTS_FILE": str(path)}
    config = ("--config", str(limited.config))
    shown = run_warm("keys", "show", "--json", *config, folder=tmp_path, environment=variable)
    assert json.loads(shown.stdout)["recipients"] == [_ANNA, _BERT]


def test_recipients_in_utf16_are_named(limited: ServerProcess, tmp_path: Path) -> None:
    """Nothing is made."""
    path = tmp_path / "recipients.txt"
    path.write_text(_ANNA, "utf-16")
    done = limited.cli("drop", "create", "--name", "x", "--recipient", str(path), check=False)
    assert (done.returncode, f"{path} is UTF-16".encode() in done.stderr) == (1, True)


@pytest.mark.parametrize("content", ["", "\n", "# nobody so far\n"])
def test_file_without_recipients_does_not_pass_for_none(limited: ServerProcess, tmp_path: Path, content: str) -> None:
    """Uploads would be for none of the people that the operator meant."""
    path = tmp_path / "recipients.txt"
    path.write_text(content)
    drop = limited.create_drop("--recipient", _ANNA, name="of Anna").id
    option = ("--recipient", str(path))
    for line in (["drop", "create", "--name", "x", *option], ["drop", "edit", drop, *option]):
        done = limited.cli(*line, check=False)
        assert (done.returncode, f"{path} lists no recipient".encode() in done.stderr) == (1, True), done.stderr
    assert limited.cli_json("drop", "show", drop)["recipients"] == [_ANNA]
