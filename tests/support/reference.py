"""The pages of docs/reference that are made from the code: `make reference` writes them, a test finds a stale one.

| page | from |
|---|---|
| `errors.md` | the classes of `dropoff_tus.errors` and of the HTTP layer, and the advice below |
| `settings.md` | the models of `server.settings.config`, with the remarks of config.example.toml |
| `commands.md` | the commands of `server.cli.main`, with their help |
| `routes.md` | the API's description of itself |
| `metrics.md` | the collectors of `server.http.metrics`, each with a sample |
"""

import inspect
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from dropoff_tus import errors
from dropoff_tus.model import TERMS
from server.cli.main import app
from server.http import middleware, problems
from server.http.api import openapi
from server.http.api.routes import ROOT, ROUTES
from server.settings.config import NAMES, SECTIONS
from tests.support.metrics import filled

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY / "docs" / "reference"
_WIDTH = 110
_REFUSED = 400
_PIPE = "\\|"
_MADE = "<!-- `make reference` writes this page from the code. -->\n"

# ---- errors -----------------------------------------------------------------------------------------------------

_NOTHING, _KEPT = "nothing was written", "up to the `Upload-Offset` of HEAD they are kept"
_SAFE, _ALL = "acknowledged ones are safe", "all are kept"
_MEND, _ASK = "mends the request", "stops; its user asks the operator"
_GO_ON, _BEGIN = "asks with HEAD and goes on from there", "begins a new upload"
_WAIT, _REPEAT = "waits, asks with HEAD and goes on from there", "waits, and repeats the request"
_LOOK = "stops; the operator looks at the server's log"
_BY_STATUS = {
    400: (_NOTHING, _MEND),
    401: (_NOTHING, _MEND),
    403: (_NOTHING, _ASK),
    404: (_NOTHING, _MEND),
    405: (_NOTHING, _MEND),
    409: (_NOTHING, _MEND),
    412: (_NOTHING, _MEND),
    413: (_NOTHING, _ASK),
    415: (_NOTHING, _MEND),
    416: (_NOTHING, _MEND),
    422: (_NOTHING, _MEND),
    431: (_NOTHING, _MEND),
}
ADVICE = {
    "ERR_ACCESS_DENIED": (_NOTHING, "asks its user for the code and the address again"),
    "ERR_CATALOG_TAMPERED": (_ALL, _LOOK),
    "ERR_CATALOG_UNAVAILABLE": (_SAFE, f"{_WAIT}, or repeats the creation"),
    "ERR_CHECKSUM_MISMATCH": ("those of this request are discarded", "sends the piece again"),
    "ERR_CONNECTION_RESET": (_KEPT, _GO_ON),
    "ERR_DIGEST_MISMATCH": ("none is kept", "compares the file with its digest, and begins a new upload"),
    "ERR_INTERNAL": (_SAFE, f"{_GO_ON}; if it comes again, the operator looks at the server's log"),
    "ERR_INVALID_CONCAT": ("the parts are kept", _MEND),
    "ERR_KEY_MISSING": (_ALL, f"{_WAIT}, once the operator has brought the key back"),
    "ERR_MAX_SIZE_EXCEEDED": ("none if the headers tell the size, else those up to the limit are kept", _ASK),
    "ERR_MISMATCHED_OFFSET": (_NOTHING, _GO_ON),
    "ERR_MODIFY_FINAL": (_NOTHING, _MEND),
    "ERR_NOT_FINISHED": (_ALL, "waits until the upload is complete"),
    "ERR_NOT_SEALED": ("none is kept", "seals the file with age, and says so in the metadata"),
    "ERR_PART_IN_USE": ("the parts are kept", _MEND),
    "ERR_POLICY_TAMPERED": (_NOTHING, _LOOK),
    "ERR_READ_TIMEOUT": (_KEPT, _GO_ON),
    "ERR_SCOPE_MISSING": (_NOTHING, "asks the operator for a token with that scope"),
    "ERR_SEALED": (_ALL, "asks the operator, who has the root identity"),
    "ERR_SERVER_SHUTDOWN": (_KEPT, _WAIT),
    "ERR_SITE_UNAVAILABLE": (_NOTHING, _REPEAT),
    "ERR_STORAGE_FAILED": (_SAFE, f"{_WAIT}; the operator looks at the disk"),
    "ERR_STORAGE_FULL": (_KEPT, f"{_WAIT}, or repeats the creation; the operator makes room"),
    "ERR_TERMINATE_FINISHED": (_ALL, _ASK),
    "ERR_TOO_MANY_SEGMENTS": (_NOTHING, "asks with HEAD and goes on in larger pieces"),
    "ERR_TOO_MANY_WRONG_CODES": (_NOTHING, "waits; the right code is let in at once"),
    "ERR_TOO_MANY_WRONG_TOKENS": (_NOTHING, "waits; the right token is let in at once"),
    "ERR_UPLOAD_DAMAGED": ("the server changes none of them", _LOOK),
    "ERR_UPLOAD_EXISTS": ("nothing was changed", _GO_ON),
    "ERR_UPLOAD_FINISHING": ("all are here and kept", "waits, and asks again"),
    "ERR_UPLOAD_GONE": ("none is kept", _BEGIN),
    "ERR_UPLOAD_INTERRUPTED": (_KEPT, "leaves it to the other request, or asks with HEAD and goes on from there"),
    "ERR_UPLOAD_LOCKED": (_NOTHING, _WAIT),
    "ERR_UPLOAD_NOT_FOUND": ("none is here", _BEGIN),
    "ERR_UPLOAD_SIZE_EXCEEDED": (
        "none if the headers tell the size, else those up to the declared length are kept",
        "compares the file with the length that it declared",
    ),
}
"""What the status alone does not tell: what became of the bytes, and what a client does."""
_RAISERS = (errors, middleware, problems)


def error_classes() -> dict[str, list[type[errors.DropoffError]]]:
    """Return all refusals by their code, those of a code in the order of the source."""
    found: dict[str, list[type[errors.DropoffError]]] = defaultdict(list)
    for module in _RAISERS:
        for _, one in inspect.getmembers(module, inspect.isclass):
            if (
                issubclass(one, errors.DropoffError)
                and one.__module__ == module.__name__
                and one is not errors.DropoffError
            ):
                found[one.code].append(one)
    return {code: sorted(some, key=lambda one: inspect.getsourcelines(one)[1]) for code, some in found.items()}


def _errors() -> Iterator[str]:
    yield f"""# Error codes
{_MADE}
A refusal of an upload is one line of plain text, `ERR_CODE: sentence`; the API answers `application/problem+json` with
the code in `code` ([API](api.md#errors)). The sentence says what happened, what to do, and what became of the bytes.
Codes never change.

- HEAD answers 404, 405 and 410 as here, and 423 for everything else, so that no client begins again because of a
  passing trouble.
- A piece with Upload-Checksum is kept whole or not at all.
- A creation that fails while its bytes come is undone, unless the client chose the upload's token
  ([HTTP](http.md#a-creation-whose-answer-is-lost)).
- For an address or a method that does not exist the API says `ERR_NOT_FOUND` or `ERR_METHOD_NOT_ALLOWED`, and for what
  the HTTP library refuses `ERR_HTTP`.

| status | code | when | the bytes | the client | Retry-After |
|---|---|---|---|---|---|
"""
    rows = []
    for code, classes in error_classes().items():
        when = ". ".join((one.__doc__ or "").partition("\n")[0].rstrip(".") for one in classes)
        repeat = next((one.default_retry_after_seconds for one in classes if one.default_retry_after_seconds), None)
        kept, do = ADVICE.get(code) or _BY_STATUS[classes[0].status_hint]
        told = f"{when} | {kept} | {do} | {'' if repeat is None else f'{repeat} s'}"
        rows.append(f"| {classes[0].status_hint} | `{code}` | {told} |\n")
    yield from sorted(rows)


# ---- settings ---------------------------------------------------------------------------------------------------

_KEY = re.compile(r"(?:# )?([a-z_]+) = ([^#]*|\"#.*?\")\s*(?:# (.*))?")
_MORE = re.compile(r"\s+# (.*)")
_SECTION = re.compile(r"\[([a-z_]+)\]\s*(?:# (.*))?")


def example() -> dict[str, dict[str, tuple[str, str]]]:
    """Return what config.example.toml says: by section and key the value and the remark; `""` has the section's own."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    section, key = "", ""
    for line in (REPOSITORY / "config.example.toml").read_text("utf-8").splitlines():
        if header := _SECTION.fullmatch(line):
            section, key = header[1], ""
            found[section] = {"": ("", header[2] or "")}
        elif section and (entry := _KEY.fullmatch(line)) and entry[1] in NAMES[section]:
            key = entry[1]
            found[section][key] = (entry[2].strip(), entry[3] or "")
        elif section and (more := _MORE.fullmatch(line)):
            value, remark = found[section][key]
            found[section][key] = (value, f"{remark} {more[1]}".strip())
        elif section and line.startswith("# "):
            value, remark = found[section][""]
            found[section][""] = (value, f"{remark} {line[2:]}".strip())
    return found


def _settings() -> Iterator[str]:
    yield f"""# Settings
{_MADE}
Every key of the configuration. [configuration.md](configuration.md) says where the file is, how values are written, and
how secrets are kept. A value behind *e.g.* is an example, because the key has no default.
"""
    said, terms = example(), {term.setting: term.help for term in TERMS.values()}
    for section, model in SECTIONS.items():
        yield f"\n## {section}\n"
        if remark := said[section][""][1]:
            yield f"{_linked(remark)}\n\n"
        yield "| key | default | |\n|---|---|---|\n"
        for key, field in model.model_fields.items():
            value, remark = said[section][key]
            remark = remark or (terms[key] if section == "dropoffs" else "")
            yield f"| `{key}` | {'*e.g.* ' if field.default is None else ''}`{value}` | {_linked(remark)} |\n"


def _linked(remark: str) -> str:
    """Return a remark with links to the documents that it names."""
    text = remark.replace("|", "\\|")
    return re.sub(r"\bdocs/((?:reference|operate)/[\w-]+\.md)", lambda found: f"[{found[1]}](../{found[1]})", text)


# ---- commands ---------------------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """Return every command by its words, such as `drop create`, as Click knows it."""
    found: dict[str, Any] = {}
    root: Any = typer.main.get_command(app)
    for name in root.commands:
        command = root.commands[name]
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {word}": one for word, one in inner.items()}
    return found


def command_options(command: Any) -> Iterator[str]:  # noqa: ANN401 - Typer has no public name for it
    """Yield the options of a command, such as `--json`."""
    for parameter in command.params:
        yield from (*parameter.opts, *parameter.secondary_opts)


def _commands() -> Iterator[str]:
    yield f"""# Commands
{_MADE}
The help of every command. [command-line.md](command-line.md) says what the commands promise.
"""
    for words, command in commands().items():
        context = command.make_context(f"dropoff-tus {words}", [], resilient_parsing=True, terminal_width=_WIDTH)
        shown = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
        yield f"\n## {words}\n```text\n{shown.strip()}\n```\n"


# ---- metrics ----------------------------------------------------------------------------------------------------


def _metrics() -> Iterator[str]:
    yield f"""# Metrics
{_MADE}
`GET /metrics` on `monitoring.listen` answers in Prometheus' text form.

- Where tusd counts the same, the metric has tusd's name, and `tusd` dashboards go on working. Missing are those of
  its hooks (see `dropoff_outbox_…`) and of its store in S3.
- No label has a file name, token, code, id or address. `code` is one of the error codes, `route` and `method` are
  each one of a fixed set, `volume` is the key of the configuration that names the folder.
- Counters begin at 0 with each start of the server, and each of several servers on one store has its own. What the
  catalog says (`dropoff_uploads`, `dropoff_run_…`, `dropoff_outbox_…` but deliveries) is the same from each of them:
  take `max`, not `sum`.
- While the catalog does not answer, `dropoff_catalog_up` is 0 and what it would say is missing; while a volume does
  not answer, `dropoff_disk_up` is 0 and so are the volumes. Neither holds the answer up for more than five seconds.
- A scrape asks the catalog for one count over an index, and looks at each volume once. Every 15 seconds is fine.
- `dropoff_run_…` has what operators run from timers, by `task`: `check` (`store check` of everything), `quick-check`
  (with `--quick`), and `backup`. A task that never ended is missing.
- `dropoff_uploads_damaged` counts the uploads that a request, a start or the background found damaged since the
  server began, less those that were deleted since. `store check` looks at all of them.

| metric | kind | labels | |
|---|---|---|---|
"""
    rows = []
    for family in filled().families:
        labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
        name = family.name + {"counter": "_total"}.get(family.type, "")
        # As Prometheus' text form has to call counters whose names do not end in `_total`.
        kind = "counter" if family.type == "unknown" else family.type
        rows.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {family.documentation} |\n")
    yield from sorted(rows)


# ---- the API ----------------------------------------------------------------------------------------------------


def _routes() -> Iterator[str]:
    yield f"""# Routes of the API
{_MADE}
Every operation, and the members of what is sent and answered, as `GET /api/v1/openapi.json` describes them for
programs. [api.md](api.md) says how they are used, and has examples.

| request | scope | does | query | answers | refusals |
|---|---|---|---|---|---|
"""
    described = json.loads(openapi.describe(ROOT, ROUTES))
    for route in ROUTES:
        operation = described["paths"][ROOT + route.path][route.method.lower()]
        query = ", ".join(f"`{each['name']}`" for each in operation["parameters"] if each["in"] == "query")
        statuses = [int(status) for status in operation["responses"]]
        good, bad = (", ".join(map(str, sorted(s for s in statuses if (s < _REFUSED) is ok))) for ok in (True, False))
        request = f"`{route.method} {ROOT}{route.path}`"
        yield f"| {request} | `{route.scope.value}` | {operation['summary']} | {query} | {good} | {bad} |\n"
    for name, schema in sorted(described["components"]["schemas"].items()):
        yield f"\n## {name}\n{' '.join(schema.get('description', '').split())}\n\n"
        members = schema.get("properties", {})
        yield "| member | is | |\n|---|---|---|\n" if members else f"One of {_kind(schema)}.\n"
        for member, each in members.items():
            yield f"| `{member}` | {_kind(each)} | {each.get('description', '').replace('|', _PIPE)} |\n"


def _kind(schema: dict[str, Any]) -> str:
    """Return in words what a value is."""
    if "anyOf" in schema:
        return " or ".join(map(_kind, schema["anyOf"]))
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'])}"
    return str(schema.get("format") or schema.get("type", "anything"))


# ---- all of them ------------------------------------------------------------------------------------------------

PAGES = {
    "errors.md": _errors,
    "settings.md": _settings,
    "commands.md": _commands,
    "metrics.md": _metrics,
    "routes.md": _routes,
}


def made(page: str) -> str:
    """Return a page as the code gives it."""
    return "".join(PAGES[page]())


def main() -> None:
    """Write the pages that differ."""
    for page in PAGES:
        path, text = REFERENCE / page, made(page)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"wrote {path.relative_to(REPOSITORY)}")  # noqa: T201 - what `make` shows


if __name__ == "__main__":
    main()
