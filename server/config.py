"""The configuration: one TOML file, with overrides from the environment. Every mistake is told with its key.

`DROPOFF_TUS__SECTION__KEY` overrides a key, `DROPOFF_TUS__SECTION__KEY_FILE` reads it from a file. A name that does not
exist, in either, is an error, and so are both forms at once.
"""

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

PREFIX = "DROPOFF_TUS__"
CONFIG_VARIABLE = "DROPOFF_TUS_CONFIG"
_SIZE_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", re.IGNORECASE)
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m|h|d|w)")
_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:\s]+)):([0-9]{1,5})")
_MAX_PORT = 65535


class ConfigError(Exception):
    """The configuration is wrong; the text has a line for each mistake."""


def parse_size(value: object) -> int:
    """Read a size: an int of bytes, or a string with a unit such as `1GiB` or `500 MB`."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            message = 'must not be negative; write e.g. 1073741824 or "1GiB"'
            raise ValueError(message)
        return value
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    factor = _SIZE_UNITS.get(found[2].lower()) if found else None
    if found is None or factor is None:
        message = 'is not a size; write a number of bytes, or e.g. "1GiB" or "500MB"'
        raise ValueError(message)
    return int(float(found[1]) * factor) if "." in found[1] else int(found[1]) * factor


def parse_duration(value: object) -> float:
    """Read a duration in seconds: a string such as `60s`, `1h30m` or `7d`; `0` means never."""
    if value in (0, "0"):
        return 0.0
    if isinstance(value, str):
        text = value.strip().lower()
        parts = _DURATION_PART.findall(text)
        if parts and _DURATION_PART.sub("", text).strip() == "":
            return float(sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts))
    message = 'is not a duration; write e.g. "60s", "1h30m" or "7d"'
    raise ValueError(message)


def _networks(value: object) -> object:
    if not isinstance(value, (list, tuple)):
        message = 'must be a list of addresses or networks; write e.g. ["127.0.0.1", "10.0.0.0/8"]'
        raise ValueError(message)  # noqa: TRY004 - pydantic wants ValueError
    try:
        return tuple(ipaddress.ip_network(str(item), strict=False) for item in value)
    except ValueError:
        message = 'has an entry that is no address or network; write e.g. ["127.0.0.1", "10.0.0.0/8"]'
        raise ValueError(message) from None


def _listen(value: object) -> object:
    found = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 0 < int(found[3]) <= _MAX_PORT:
        message = 'is not HOST:PORT; write e.g. "127.0.0.1:8080" or "[::1]:8080"'
        raise ValueError(message)
    return value


def _public_url(value: object) -> object:
    if not isinstance(value, str) or not re.fullmatch(r"https?://[^\s/?#]+(/[^\s?#]*)?", value):
        message = 'is not a URL; write e.g. "https://drop.example.org"'
        raise ValueError(message)
    return value.rstrip("/")


Size = Annotated[int, BeforeValidator(parse_size)]
Duration = Annotated[float, BeforeValidator(parse_duration)]
Listen = Annotated[str, BeforeValidator(_listen)]
PublicUrl = Annotated[str, BeforeValidator(_public_url)]
Networks = Annotated[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...], BeforeValidator(_networks)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ServerSection(_Section):
    """`[server]`."""

    listen: Listen = "127.0.0.1:8080"
    public_url: PublicUrl | None = None
    unix_socket: Path | None = None
    trusted_proxies: Networks = ()
    tls_cert: Path | None = None
    tls_key: Path | None = None

    @property
    def host(self) -> str:
        """The host to listen on."""
        return self.listen.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to listen on."""
        return int(self.listen.rpartition(":")[2])

    @property
    def base_url(self) -> str:
        """Where clients reach us, as far as the configuration knows."""
        scheme = "https" if self.tls_cert else "http"
        return self.public_url or f"{scheme}://{self.listen}"

    @model_validator(mode="after")
    def _tls_whole(self) -> "ServerSection":
        if (self.tls_cert is None) != (self.tls_key is None):
            message = "tls_cert and tls_key belong together; set both or none"
            raise ValueError(message)
        return self


class MonitoringSection(_Section):
    """`[monitoring]`."""

    listen: Listen | None = None


class TusSection(_Section):
    """`[tus]`."""

    max_upload_bytes: Size = 0
    expire_after: Duration = 7 * 86400.0
    download: bool = False
    terminate_finished: bool = False
    cors_origins: tuple[str, ...] = ()
    body_idle_timeout: Duration = 60.0


class StoreSection(_Section):
    """`[store]`."""

    dir: Path
    keys_dir: Path
    durability: Literal["fsync", "os"] = "fsync"
    free_space_floor: Size = 1 << 30
    digest: Literal["sha256", "blake3", "none"] = "sha256"


class KeysSection(_Section):
    """`[keys]`: recipients, and where the server's own keys come from."""

    root_recipients: tuple[str, ...] = ()
    managed_identity: str
    ingest_dir: Path
    signing_key: str
    code_key: str


class CatalogSection(_Section):
    """`[catalog]`."""

    url: str


class DropoffsSection(_Section):
    """`[dropoffs]`: defaults of `drop create`."""

    expires: str | None = None
    max_upload_bytes: Size = 0
    max_total_bytes: Size = 0
    max_uploads: int = Field(default=0, ge=0)
    sealed: bool = False


class LimitsSection(_Section):
    """`[limits]`."""

    connections: int = Field(default=1024, ge=0)
    connections_per_address: int = Field(default=128, ge=0)
    wrong_codes_per_hour: int = Field(default=30, ge=0)
    header_timeout: Duration = 10.0
    min_body_rate: Size = 0


class LogSection(_Section):
    """`[log]`."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Section):
    """All of it."""

    server: ServerSection = ServerSection()
    monitoring: MonitoringSection = MonitoringSection()
    tus: TusSection = TusSection()
    store: StoreSection
    keys: KeysSection
    catalog: CatalogSection
    dropoffs: DropoffsSection = DropoffsSection()
    limits: LimitsSection = LimitsSection()
    log: LogSection = LogSection()


def config_path(given: Path | None) -> Path:
    """Return the file to read: the one given, else $DROPOFF_TUS_CONFIG, else ./config.toml."""
    return given or Path(os.environ.get(CONFIG_VARIABLE) or "config.toml")


def load_config(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """Read the configuration.

    Raises:
        ConfigError: A line for each mistake: `section.key: what is wrong; write ...`.
    """
    file = config_path(path)
    try:
        tree: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        message = (
            f"there is no configuration at {file}; make one with `dropoff-tus init --dir DIR`, or name it with --config"
        )
        raise ConfigError(message) from None
    except OSError as error:
        message = f"cannot read {file}: {error.strerror}"
        raise ConfigError(message) from None
    except UnicodeDecodeError:
        message = f"{file} is not UTF-8 text"
        raise ConfigError(message) from None
    except tomllib.TOMLDecodeError as error:
        message = f"{file}: not TOML: {error}"
        raise ConfigError(message) from None
    _override(tree, os.environ if environment is None else environment)
    _anchor(tree, file.resolve().parent)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item) for item in error.errors())) from None


def _override(tree: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Lay the environment over the file."""
    seen: dict[tuple[str, str], str] = {}
    for name in sorted(environment):
        if not name.startswith(PREFIX):
            continue
        section, _, key = name.removeprefix(PREFIX).lower().partition("__")
        fields = _fields(section)
        from_file = key.endswith("_file") and key not in fields
        key = key.removesuffix("_file") if from_file else key
        if key not in fields:
            message = f"{name}: there is no key {section}.{key}; see config.example.toml for the names"
            raise ConfigError(message)
        if (section, key) in seen:
            message = f"{name} and {seen[section, key]} are both set; keep one"
            raise ConfigError(message)
        seen[section, key] = name
        value = environment[name]
        if from_file:
            try:
                value = Path(value).read_text("utf-8").strip()
            except (OSError, UnicodeDecodeError):
                message = f"{name}: cannot read the file it names"
                raise ConfigError(message) from None
        tree.setdefault(section, {})[key] = _value(value, fields[key].annotation)


def _fields(section: str) -> Mapping[str, Any]:
    field = Config.model_fields.get(section)
    kind = field.annotation if field is not None else None
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}


def _value(text: str, annotation: Any) -> object:  # noqa: ANN401 - a type
    """Turn an environment variable's text into what TOML would give: lists by comma."""
    if "tuple" in str(annotation):
        return [item.strip() for item in text.split(",") if item.strip()]
    if re.fullmatch(r"[0-9]+", text):
        return int(text)
    return text


def _anchor(tree: dict[str, Any], folder: Path) -> None:
    """Make relative paths relative to the file."""
    for section, keys in (
        ("server", ("unix_socket", "tls_cert", "tls_key")),
        ("store", ("dir", "keys_dir")),
        ("keys", ("ingest_dir", "managed_identity", "signing_key", "code_key")),
    ):
        values = tree.get(section)
        if not isinstance(values, dict):
            continue
        for key in keys:
            value = values.get(key)
            if isinstance(value, str) and not value.startswith(("/", "command:", "env:")):
                values[key] = str(folder / value)
    catalog = tree.get("catalog")
    if isinstance(catalog, dict) and isinstance(catalog.get("url"), str):
        url = catalog["url"]
        if url.startswith("sqlite:///") and not url.startswith("sqlite:////"):
            catalog["url"] = f"sqlite:///{folder / url.removeprefix('sqlite:///')}"


def _explain(item: Any) -> str:  # noqa: ANN401 - pydantic's dict
    place = ".".join(str(part) for part in item["loc"] if isinstance(part, str) and "[" not in part and "(" not in part)
    if item["type"] == "extra_forbidden":
        return f"{place}: there is no such key; see config.example.toml for the names"
    if item["type"] == "missing":
        return f"{place}: is missing; see config.example.toml for what to write"
    text = str(item["msg"]).removeprefix("Value error, ")
    return f"{place}: {text[:1].lower()}{text[1:]}"
