"""The configuration: its values, and the answer to each mistake."""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from server.settings.config import NAMES, Config, ConfigError, config_path, load_config

REPOSITORY = Path(__file__).resolve().parents[4]
_LEAST = """
[store]
dir = "store"
keys_dir = "keys"
[keys]
signing_key = "signing-key"
code_key = "code-key"
managed_identity = "managed.txt"
ingest_dir = "ingest"
[catalog]
url = "sqlite:///catalog.sqlite3"
"""
Load = Callable[..., Config]
HOOK = "https://portal.example/hooks"
KEY = 'secret = "webhook-secret"'


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Return a loader of a least configuration with more text, or with an environment."""

    def read(text: str = "", environment: Mapping[str, str] | None = None, *, least: str = _LEAST) -> Config:
        file = tmp_path / "config.toml"
        file.write_text(text + least, "utf-8")
        return load_config(file, environment or {})

    return read


def _mistakes(
    load: Load, text: str = "", environment: Mapping[str, str] | None = None, *, least: str = _LEAST
) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text, environment, least=least)
    return str(caught.value).splitlines()


# ---- what is read -----------------------------------------------------------------------------------------------


def test_example_has_every_key_and_every_default(tmp_path: Path) -> None:
    """The commented reference names each key once, and shows the value that holds without it."""
    example = (REPOSITORY / "config.example.toml").read_text("utf-8")
    uncommented = re.sub(r"^# ([a-z_]+ = )", r"\1", example, flags=re.MULTILINE)
    shown: set[tuple[str, str]] = set()
    section = ""
    for line in uncommented.splitlines():
        if found := re.match(r"\[([a-z_]+)\]", line):
            section = found[1]
        elif found := re.match(r"([a-z_]+) = ", line):
            assert (section, found[1]) not in shown
            shown.add((section, found[1]))
    assert shown == {(section, key) for section, keys in NAMES.items() for key in keys}
    file = tmp_path / "config.toml"
    file.write_text(example, "utf-8")
    from_example = load_config(file, {})
    file.write_text(_LEAST, "utf-8")
    least = load_config(file, {})
    for name in Config.model_fields:
        if name not in {"store", "keys", "catalog"}:
            assert getattr(from_example, name) == getattr(least, name), name
    assert from_example.store.model_dump(exclude={"dir", "keys_dir"}) == least.store.model_dump(
        exclude={"dir", "keys_dir"}
    )


def test_paths_are_relative_to_the_file(load: Load, tmp_path: Path) -> None:
    """Wherever the program was started, and from file and environment alike."""
    config = load("", {"DROPOFF_TUS__STORE__DIR": "elsewhere", "DROPOFF_TUS__KEYS__CODE_KEY": "command:vault"})
    assert config.store.dir == tmp_path / "elsewhere"
    assert config.store.keys_dir == tmp_path / "keys"
    assert config.keys.signing_key == str(tmp_path / "signing-key")
    assert config.keys.code_key == "command:vault"
    assert config.catalog.url == f"sqlite:///{tmp_path}/catalog.sqlite3"


_ORIGINS = {
    "https://portal.example.org:443": "https://portal.example.org",
    "http://portal.example.org:80": "http://portal.example.org",
    "http://portal.example.org:443": "http://portal.example.org:443",
    "HTTPS://Portal.Example.ORG:08443": "https://portal.example.org:8443",
    "http://[0:0:0:0:0:0:0:1]:3000": "http://[::1]:3000",
    "https://[2001:DB8::0001]": "https://[2001:db8::1]",
    "https://M\xfcnchen.example": "https://xn--mnchen-3ya.example",
    "http://127.0.0.1:8080": "http://127.0.0.1:8080",
    "capacitor://localhost": "capacitor://localhost",
    "ionic://LOCALHOST": "ionic://localhost",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop": "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
    "app://obsidian.md": "app://obsidian.md",
    "*": "*",
}
_NO_ORIGINS = (
    *(
        "null",
        "",
        "https://",
        "file://",
        "https:a.example",
        "https://a.example/x",
        "https://a.example?",
        "https://a.example#",
    ),
    *(
        "https://*.example.org",
        "https://user@a.example",
        "https://a.example:99999",
        "https://a.example:x",
        "https://[::1",
    ),
    *(
        "https://127.1",
        "https://1.2.3.400",
        "https://[fe80::1%25eth0]",
        "https://a b.example",
        "https://a,b.example",
        7,
    ),
)


def test_origins_are_written_as_browsers_write_them(load: Load) -> None:
    """So each of them matches what a browser sends."""
    config = load(f"[tus]\ncors_origins = {json.dumps(list(_ORIGINS))}")
    assert config.tus.cors_origins == tuple(_ORIGINS.values())


@pytest.mark.parametrize("origin", _NO_ORIGINS)
def test_origin_that_could_never_match_is_refused(load: Load, origin: object) -> None:
    """Told at the start, instead of by a browser that says nothing."""
    with pytest.raises(ConfigError, match=r"tus\.cors_origins: has an entry that is no origin"):
        load(f"[tus]\ncors_origins = {json.dumps(['https://a.example', origin])}")


@pytest.mark.parametrize(
    ("variable", "text", "section", "key", "value"),
    [
        ("TUS__MAX_UPLOAD_BYTES", "10GiB", "tus", "max_upload_bytes", 10 << 30),
        ("TUS__MAX_UPLOAD_BYTES", "1000", "tus", "max_upload_bytes", 1000),
        ("TUS__EXPIRE_AFTER", "1h30m", "tus", "expire_after", 5400.0),
        ("TUS__DOWNLOAD", "true", "tus", "download", True),
        ("TUS__CORS_ORIGINS", "https://a.example, https://b.example", "tus", "cors_origins", "two"),
        ("LIMITS__CONNECTIONS", "7", "limits", "connections", 7),
        ("DROPOFFS__NOTIFY", "a@x.example, b@x.example", "dropoffs", "notify", ("a@x.example", "b@x.example")),
        ("DROPOFFS__EXPIRES", "30d", "dropoffs", "expires", "30d"),
        ("SERVER__PUBLIC_URL", "https://d.example/x/", "server", "public_url", "https://d.example/x"),
    ],
)
def test_environment_overrides_the_file(
    load: Load, variable: str, text: str, section: str, key: str, value: object
) -> None:
    """A variable's text means what the same would mean in TOML."""
    config = load("[limits]\nconnections = 1\n", {f"DROPOFF_TUS__{variable}": text})
    expected = ("https://a.example", "https://b.example") if value == "two" else value
    assert getattr(getattr(config, section), key) == expected


def test_environment_reads_a_key_from_a_file(load: Load, tmp_path: Path) -> None:
    """As container secrets come; the end of the line is not part of the value."""
    secret = tmp_path / "secret"
    secret.write_text("postgresql://user:secret@host/db\n", "utf-8")
    config = load("", {"DROPOFF_TUS__CATALOG__URL_FILE": str(secret)})
    assert config.catalog.url == "postgresql://user:secret@host/db"


def test_byte_order_mark_is_no_part_of_what_is_read(tmp_path: Path) -> None:
    """Editors put it in front of a configuration, and of a file that a variable names."""
    config, level = tmp_path / "config.toml", tmp_path / "level"
    config.write_text(_LEAST, "utf-8-sig")
    level.write_text("warning\n", "utf-8-sig")
    assert load_config(config, {"DROPOFF_TUS__LOG__LEVEL_FILE": str(level)}).log.level == "warning"


def test_value_in_a_file_that_is_utf16_is_named(load: Load, tmp_path: Path) -> None:
    """It says which variable, and how to save the file instead."""
    (tmp_path / "level").write_text("warning\n", "utf-16")
    (line,) = _mistakes(load, "", {"DROPOFF_TUS__LOG__LEVEL_FILE": str(tmp_path / "level")})
    assert line.startswith("DROPOFF_TUS__LOG__LEVEL_FILE: the file it names is UTF-16")


def test_password_of_the_catalog_is_in_no_repr(load: Load) -> None:
    """No view of the configuration shows a secret of its URL."""
    config = load(environment={"DROPOFF_TUS__CATALOG__URL": "postgresql://user:hunter2@host/db"})
    assert "hunter2" in config.catalog.url
    for shown in (config, config.catalog):
        assert "hunter2" not in f"{shown} {shown!r}"


def test_config_path_is_the_given_one_then_the_variable_then_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest word wins."""
    monkeypatch.delenv("DROPOFF_TUS_CONFIG", raising=False)
    assert config_path(None) == Path("config.toml")
    monkeypatch.setenv("DROPOFF_TUS_CONFIG", "/etc/d.toml")
    assert config_path(None) == Path("/etc/d.toml")
    assert config_path(Path("x.toml")) == Path("x.toml")


# ---- mistakes in the file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("[server]\nlisten = 127.0.0.1:80\n", "line 2, column"),
        ("[server\n", "line 1"),
        ('[server]\nlisten = "a:1"\nlisten = "b:1"\n', "line 3"),
        ("[server]\n[server]\n", "line 2"),
        ("a = " + "9" * 5000 + "\n", "not TOML"),
        ("a = " + "[" * 5000, "nested too deeply"),
    ],
    ids=["value", "section", "key twice", "section twice", "endless number", "endless nesting"],
)
def test_file_that_is_not_toml_is_told_by_line(load: Load, tmp_path: Path, text: str, place: str) -> None:
    """An editor jumps to the line that is named."""
    (said,) = _mistakes(load, text)
    assert said.startswith(str(tmp_path / "config.toml"))
    assert place in said


def test_file_that_cannot_be_read_says_what_to_do(tmp_path: Path) -> None:
    """No file, a folder, and what is no text, each in a sentence."""
    with pytest.raises(ConfigError, match="dropoff-tus init --dir DIR"):
        load_config(tmp_path / "none.toml", {})
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path, {})
    (tmp_path / "latin").write_bytes(b'a = "\xe4"')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config(tmp_path / "latin", {})
    (tmp_path / "wide").write_text(_LEAST, "utf-16")
    with pytest.raises(ConfigError, match="wide is UTF-16"):
        load_config(tmp_path / "wide", {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        # names
        ('[server]\nlissten = "a:1"', "server.lissten: there is no such key; did you mean server.listen?"),
        ("[tus]\nconnections = 1", "tus.connections: there is no such key; did you mean limits.connections?"),
        ("[tus]\nqwxyz = 1", "tus.qwxyz: there is no such key; config.example.toml has all names"),
        ("[sever]\n", "sever: there is no such section; did you mean [server]?"),
        ('listen = "a:1"', "listen: there is no such section; did you mean server.listen?"),
        ("server = 1", "server: must be a section; write its name in [ ] on a line of its own, and its keys below"),
        # webhook
        (
            f'[webhook]\nurl = "{HOOK}"',
            'webhook: url needs secret, which signs the requests; write e.g. secret = "secrets/',
        ),
        (f'[webhook]\nurl = "http://portal.example"\n{KEY}', "webhook: an http URL needs allow_private_addresses"),
        (f'[webhook]\nurl = "https://169.254.169.254/"\n{KEY}', "webhook: the URL's address is private or has no TLS"),
        (f'[webhook]\nurl = "https://[::ffff:10.0.0.1]/"\n{KEY}', "webhook: the URL's address is private"),
        (f'[webhook]\nurl = "https://user:pass@portal.example/"\n{KEY}', "webhook.url: is not an http or https URL"),
        ('[webhook]\nevents = ["upload.done"]', "webhook.events: must be a list of events; there are upload.created"),
        ('[webhook]\ntimeout = "0"', 'webhook.timeout: must be from 0.1 to 120 seconds; write e.g. "10s"'),
        ("[webhook]\nmax_attempts = 0", "webhook.max_attempts: must be 1 or more"),
        # pre_create
        ('[pre_create]\nwebhook = "http://portal.example/"', "pre_create: an http URL needs allow_private_addresses"),
        (
            '[pre_create]\nheaders = ["Dropoff-Code"]',
            "pre_create.headers: has a header that may carry a drop-off's code",
        ),
        # mail
        ('[mail]\nserver = "smtp.example:587"', "mail: server needs sender"),
        ('[mail]\nusername = "x"', "mail: username and password belong together; write both or none"),
        ('[mail]\nsender = "Name <a@b>"', "mail.sender: is not a mail address; write e.g."),
        ('[mail]\nehlo = "a name"', "mail.ehlo: is no name that a machine has in the DNS; write e.g."),
        ('[mail]\nsecurity = "none"\nusername = "x"\npassword = "y"', "mail: a password is not sent without TLS"),
        # server
        ('[server]\nlisten = "8080"', 'server.listen: is not HOST:PORT; write e.g. "127.0.0.1:8080" or "[::1]:8080"'),
        ('[server]\nlisten = "host:70000"', "server.listen: is not HOST:PORT"),
        ('[server]\nlisten = "[::g]:80"', "server.listen: is not HOST:PORT"),
        ('[server]\npublic_url = "drop.example.org"', "server.public_url: is not an http or https URL; write e.g."),
        ('[server]\npublic_url = "https://a.example:99999"', "server.public_url: is not an http or https URL"),
        ('[server]\npublic_url = "https://u:p@a.example"', "server.public_url: is not an http or https URL"),
        ('[server]\npublic_url = "https://a.example/?x"', "server.public_url: has a query"),
        ('[server]\ntrusted_proxies = "127.0.0.1"', "server.trusted_proxies: must be a list of addresses"),
        ("[server]\ntrusted_proxies = [1]", "server.trusted_proxies: has an entry that is no address or network"),
        ('[server]\ntrusted_proxies = ["x"]', "server.trusted_proxies: has an entry that is no address or network"),
        ('[server]\ntls_cert = "c.pem"', "server: tls_cert and tls_key belong together; write both or none"),
        ('[server]\ntls_cert = ""\ntls_key = "k"', "server.tls_cert: is not a path; write it in quotes"),
        (f'[server]\nunix_socket = "/{"x" * 120}"', "server.unix_socket: is longer than the 107 bytes"),
        ('[monitoring]\nlisten = "127.0.0.1:8080"', "monitoring.listen is the same as server.listen; write another"),
        # kinds
        ('[tus]\ndownload = "yes"', "tus.download: must be true or false, without quotes"),
        ("[tus]\ndownload = 1", "tus.download: must be true or false, without quotes"),
        ('[limits]\nconnections = "7"', "limits.connections: must be a whole number, without quotes"),
        ("[limits]\nconnections = -1", "limits.connections: must be 0 or more"),
        ("[tus]\nmax_upload_bytes = true", "tus.max_upload_bytes: is not a size; write a number of bytes, or e.g."),
        ("[tus]\nexpire_after = 60", 'tus.expire_after: needs a unit; write e.g. "60s", or "7d"'),
        ('[tus]\ncors_origins = "https://a.example"', "tus.cors_origins: must be a list; write a list of origins"),
        ('[tus]\ncors_origins = ["https://a.example/"]', "tus.cors_origins: has an entry that is no origin"),
        ('[tus]\ncors_origins = ["a.example"]', "tus.cors_origins: has an entry that is no origin"),
        ('[log]\nformat = "xml"', 'log.format: must be "json" or "console"'),
        ('[log]\nlevel = "loud"', 'log.level: must be "debug", "info", "warning" or "error"'),
        ('[dropoffs]\nallowed_types = "text/csv"', "dropoffs.allowed_types: must be a list; write e.g."),
        ('[dropoffs]\nallowed_types = [".csv"]', "dropoffs.allowed_types: has an entry that is no type and matches"),
        ('[dropoffs]\nallowed_types = ["text/csv,a/b"]', "dropoffs.allowed_types: has an entry that is no type and"),
        (
            '[dropoffs]\nname_patterns = ["*.csv,*.zip"]',
            "dropoffs.name_patterns: has an entry that is one pattern, not",
        ),
        ('[dropoffs]\nexpires = "soon"', "dropoffs.expires: is not a time; write a duration from now such as"),
        ('[dropoffs]\nnotify = "a@x.example"', "dropoffs.notify: must be a list; write e.g."),
        ('[dropoffs]\nnotify = ["a@x.example", "Ada"]', "dropoffs.notify: is not a mail address; write e.g."),
        (f"[dropoffs]\nnotify = {['a@x.example'] * 21}", "dropoffs.notify: takes up to 20 addresses"),
        ("[dropoffs]\nexpires = 2030-01-31", "dropoffs.expires: is not a time"),
        ("[dropoffs]\nexpires = 2030-01-31T12:00:00", "dropoffs.expires: has no zone"),
    ],
)
def test_mistake_in_the_file_names_the_key_and_what_to_write(load: Load, text: str, said: str) -> None:
    """A reader can mend it without looking anything up."""
    (line,) = _mistakes(load, text + "\n")
    assert line.startswith(said)


@pytest.mark.parametrize(
    ("least", "said"),
    [
        (_LEAST.replace('dir = "store"', "dir = 7"), "store.dir: is not a path; write it in quotes"),
        (_LEAST.replace('keys_dir = "keys"\n', ""), "store.keys_dir: is missing; config.example.toml says"),
        (_LEAST.replace('"code-key"', '"env:"'), "keys.code_key: is not a source of a key; write a file,"),
        (_LEAST.replace('"sqlite:///catalog.sqlite3"', '"catalog"'), "catalog.url: is not a database URL; write e.g."),
        (_LEAST.partition("[catalog]")[0], "catalog: is missing; config.example.toml says"),
        (_LEAST + "[keys.x]\n", "keys.x: there is no such key; config.example.toml has all names"),
    ],
    ids=["path", "key missing", "source", "url", "section missing", "below"],
)
def test_mistake_in_what_every_configuration_has_is_told(load: Load, least: str, said: str) -> None:
    """The same for the keys without a default."""
    (line,) = _mistakes(load, least=least)
    assert line.startswith(said)


def test_all_mistakes_are_told_at_once(load: Load) -> None:
    """One run of `check-config` is enough, whether they are in the file or around it."""
    said = _mistakes(
        load,
        '[tus]\ndownload = "x"\n[log]\nlevel = "x"\n',
        {"DROPOFF_TUS__TUS__DOWNLOADS": "x", "DROPOFF_TUS__LIMITS__CONNECTIONS": "many"},
    )
    assert [line.partition(":")[0] for line in said] == [
        "DROPOFF_TUS__TUS__DOWNLOADS",
        "tus.download",
        "limits.connections (DROPOFF_TUS__LIMITS__CONNECTIONS)",
        "log.level",
    ]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ('[mail]\nserver = "mail.example:25"\nevents = ["x"]\n', ["mail.events", "mail"]),
        ('[server]\nlisten = "x"\ntls_cert = "c.pem"\n', ["server.listen", "server"]),
        (
            '[monitoring]\nlisten = "127.0.0.1:8080"\n[log]\nlevel = "x"\n',
            ["log.level", "monitoring.listen is the same"],
        ),
        # A consequence of another mistake is none of its own.
        ('[server]\ntls_cert = 5\ntls_key = "k.pem"\n', ["server.tls_cert"]),
        ('[mail]\nserver = "mail.example:25"\nsender = "nobody"\n', ["mail.sender"]),
        ('[monitoring]\nlisten = "127.0.0.1:8080"\n[server]\nlisten = "x"\n', ["server.listen"]),
    ],
)
def test_mistakes_of_one_section_do_not_hide_one_another(load: Load, text: str, places: list[str]) -> None:
    """A key that is wrong, keys that do not fit together, and sections that do not: one run tells them all."""
    said = _mistakes(load, text)
    assert len(said) == len(places)
    assert all(line.startswith(place) for line, place in zip(said, places, strict=True)), said


def test_variable_whose_file_cannot_be_read_is_one_mistake(load: Load) -> None:
    """It is no second one that the key, or its whole section, is nowhere else."""
    for least in (_LEAST.partition("[catalog]")[0], _LEAST.replace("url = ", "# url = ")):
        (line,) = _mistakes(load, "", {"DROPOFF_TUS__CATALOG__URL_FILE": "/nowhere/at/all"}, least=least)
        assert line == "DROPOFF_TUS__CATALOG__URL_FILE: cannot read the file it names: No such file or directory"


def test_key_from_a_variable_is_refused_and_says_why(load: Load) -> None:
    """`/proc/PID/environ` shows it for as long as the server runs, also when it was removed from the environment."""
    for name in ("SIGNING_KEY", "CODE_KEY", "MANAGED_IDENTITY"):
        (line,) = _mistakes(load, "", {f"DROPOFF_TUS__KEYS__{name}": "env:SECRET"})
        assert "write a file" in line
        assert "/proc/PID/environ" in line


def test_value_of_a_variable_that_is_not_utf8_is_a_mistake(load: Load) -> None:
    """It would be another value than the one that was meant, and could not be shown."""
    value = os.fsdecode("pässwörd".encode("latin-1"))
    (line,) = _mistakes(load, "", {"DROPOFF_TUS__MAIL__USERNAME": value})
    assert line == "DROPOFF_TUS__MAIL__USERNAME: is not UTF-8 text; save it as UTF-8"
    assert load("", {"DROPOFF_TUS__DROPOFFS__CONTACT": "Zoë"}).dropoffs.model_dump()["contact"] == "Zoë"


def test_mistake_never_repeats_the_value(load: Load) -> None:
    """A database URL may hold a password, and messages end up in logs."""
    text = _LEAST.replace("sqlite:///catalog.sqlite3", "hunter2").replace('"code-key"', '"env:"')
    said = _mistakes(
        load, '[server]\npublic_url = "https://u:hunter2@h"\n', {"DROPOFF_TUS__LOG__LEVEL": "hunter2"}, least=text
    )
    assert len(said) == 4
    assert "hunter2" not in "\n".join(said)


# ---- mistakes in the environment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"TUS__DOWNLOD": "x"}, "there is no such setting; did you mean DROPOFF_TUS__TUS__DOWNLOAD?"),
        ({"CATALOG__URI_FILE": "x"}, "there is no such setting; did you mean DROPOFF_TUS__CATALOG__URL_FILE?"),
        ({"QQQ__ZZZ": "x"}, "there is no such setting; config.example.toml has all names"),
        ({"TUS": "x"}, "there is no such setting"),
        ({"tus__download": "true"}, "there is no such setting; did you mean DROPOFF_TUS__TUS__DOWNLOAD?"),
        ({"LOG__LEVEL_FILE": "/nowhere/at/all"}, "cannot read the file it names: No such file"),
        ({"LOG__LEVEL_FILE": "/"}, "cannot read the file it names: Is a directory"),
    ],
)
def test_mistake_in_the_environment_names_the_variable(load: Load, environment: dict[str, str], said: str) -> None:
    """A setting that is misspelt must not be silently without effect."""
    variables = {f"DROPOFF_TUS__{name}": value for name, value in environment.items()}
    (line,) = _mistakes(load, "", variables)
    assert line.startswith(f"{next(iter(variables))}: {said}")


def test_list_in_the_environment_that_is_refused_says_how_to_write_one_there(load: Load) -> None:
    """TOML's form, which is right in the file, is not."""
    (line,) = _mistakes(load, "", {"DROPOFF_TUS__SERVER__TRUSTED_PROXIES": '["10.0.0.0/8"]'})
    assert line.startswith("server.trusted_proxies (DROPOFF_TUS__SERVER__TRUSTED_PROXIES): has an entry that is no")
    assert line.endswith("in the environment without brackets and quotes, separated by commas")


def test_prefix_with_one_underscore_is_a_mistake_too(load: Load) -> None:
    """The likeliest slip of all; other programs' variables are nobody's business."""
    (line,) = _mistakes(load, "", {"DROPOFF_TUS_TUS__DOWNLOAD": "true"})
    assert line.endswith("did you mean DROPOFF_TUS__TUS__DOWNLOAD?")
    load("", {"DROPOFF_TUS_CONFIG": "x", "DROPOFF_OTHER": "y", "PATH": "z"})


def test_both_forms_of_one_key_are_a_mistake(load: Load, tmp_path: Path) -> None:
    """Neither of the two is what was surely meant."""
    (tmp_path / "level").write_text("info", "utf-8")
    (line,) = _mistakes(
        load, "", {"DROPOFF_TUS__LOG__LEVEL": "info", "DROPOFF_TUS__LOG__LEVEL_FILE": str(tmp_path / "level")}
    )
    assert line == "DROPOFF_TUS__LOG__LEVEL_FILE and DROPOFF_TUS__LOG__LEVEL are both set; keep one of them"
