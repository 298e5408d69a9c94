"""`drop …`: drop-offs."""

import inspect
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from dropoff_tus.model import TERMS, Dropoff, Mode, Usage
from dropoff_tus.terms import Kind, Term
from server.answers import DropAnswer, DropUsageAnswer, NewDropAnswer
from server.cli.context import ConfigOption, DropId, JsonOption, group, parsed, recipients_option
from server.cli.invitation import NO_CODE, say_invitation
from server.cli.opening import with_catalog
from server.cli.output import CommandError, answer, note, print_json, say, show, size
from server.clock import SystemClock
from server.places import key_places
from server.services import recipients_problem
from server.settings.config import Config, config_path, load_config
from server.settings.drop_terms import FORMS, MOST_COUNT, explained, value_of
from server.settings.page import LANGUAGES
from server.usecases.closing import set_closed
from server.usecases.dropoffs import Dropoffs, unknown
from storage.catalog import SqlCatalog
from storage.files.marks import ended_drops
from storage.keyring.keys import ServerKeys, load_server_keys

app = group("Make and manage drop-offs: an upload URL and a code.")
ROOT_IDENTITY = "root-identity.txt"
"""Where `init` leaves the root identity, beside the configuration, until the operator moves it."""


def load_keys(config: Config) -> ServerKeys:
    """Load only the server's keys."""
    return load_server_keys(key_places(config))


def dropoffs(catalog: SqlCatalog, keys: ServerKeys) -> Dropoffs:
    """Return the use cases."""
    return Dropoffs(catalog, keys, SystemClock(), recipients_problem)


def created_json(config: Config, dropoff: Dropoff, code: str | None) -> dict[str, Any]:
    """Return what a new drop-off is shown as."""
    return NewDropAnswer.of(config.server.base_url, dropoff, code).model_dump(mode="json")


LanguageOption = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(LANGUAGES),
        help="The language of the messages to the uploader; by default the first of page.languages.",
    ),
]


def check_language(language: str | None) -> None:
    """Refuse a language that the upload page does not speak, before anything is done.

    Raises:
        CommandError: It does not.
    """
    if language is not None and language not in LANGUAGES:
        raise CommandError(f"--language must be one of {', '.join(LANGUAGES)}")


def say_created(made: dict[str, Any]) -> None:
    """Print a new drop-off for people."""
    say(f"page:       {made['page_url']}")
    say(f"upload URL: {made['upload_url']}")
    if made["code"]:
        say(f"code:       {made['code']}   (shown this once)")
        say(f"link:       {made['page_url']}#{made['code']}")
    else:
        say("code:       none needed")
        say(f"link:       {made['page_url']}{NO_CODE}")


_Command = Callable[..., None]
_TYPES: dict[Kind, Any] = {
    Kind.COUNT: int,
    Kind.MODE: bool,
    Kind.FLAG: bool,
    **dict.fromkeys((Kind.TYPES, Kind.NAMES, Kind.RECIPIENTS, Kind.ADDRESSES), list[str]),
}


def with_terms(*, required: tuple[str, ...] = ()) -> Callable[[_Command], _Command]:
    """Give a command an option for each term; it gets what was said with them as `given`, by the names of the terms."""

    def decorate(command: _Command) -> _Command:
        def run(**values: Any) -> None:  # noqa: ANN401 - each option has its type
            said = {name: values.pop(name) for name in TERMS}
            given = {name: _read(TERMS[name], value) for name, value in said.items() if value is not None}
            command(given=given, **values)

        options = [_option(name, term, required=name in required) for name, term in TERMS.items()]
        own = [one for one in inspect.signature(command, eval_str=True).parameters.values() if one.name != "given"]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*options, *own)]
        run.__doc__, run.__name__ = command.__doc__, command.__name__
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        vars(run)["__signature__"] = inspect.Signature(parameters)
        return run

    return decorate


def _option(name: str, term: Term, *, required: bool) -> inspect.Parameter:
    of = _TYPES.get(term.kind, str)
    several = of is not int and of is not bool and of is not str
    flags = f"{term.option}/--no-{term.flag[2:]}" if term.kind is Kind.FLAG else term.option
    option = typer.Option(
        flags,
        help=explained(term) + (" May be repeated." if several else ""),
        show_default=False,
        min=0 if of is int else None,
        max=MOST_COUNT if of is int else None,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else None,
        annotation=Annotated[of if required else of | None, option],
    )


def _read(term: Term, said: Any) -> Any:  # noqa: ANN401 - each option has its type
    """Return the value of a term that its option says; once, and empty, an option of several empties the list."""
    if isinstance(said, list):
        given = [] if said == [""] else said
        return recipients_option(given) if term.kind is Kind.RECIPIENTS else tuple(given)
    read = FORMS[term.kind].read if isinstance(said, str) else lambda value: value
    return parsed(lambda value: value_of(term, read(value), datetime.now(UTC)), said, term.flag)


@app.command()
@with_terms(required=("name",))
def create(
    given: dict[str, Any],
    drop_id: Annotated[str | None, typer.Option("--id", help="A UUIDv4 of your own for it.")] = None,
    no_code: Annotated[bool, typer.Option("--no-code", help="Let anyone who has the URL upload.")] = False,
    language: LanguageOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a drop-off and show its URL, its code, which is shown this once, and two messages for the uploader.

    Send the code and the address in separate messages. Missing options come from section [dropoffs]; an empty value, as
    in --notify '', empties a list of it. Types and names are compared without case, and are what the client says they
    are: nobody looks into the file.

    Example: dropoff-tus drop create --name "Cohort 7" --expires 30d --max-total-bytes 2TiB
    """
    check_language(language)
    loaded = load_config(config)
    terms = loaded.dropoffs.terms(given, SystemClock().now())

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        made = dropoffs(catalog, load_keys(conf))
        return created_json(conf, *await made.create(terms, drop_id=drop_id, with_code=not no_code))

    made = with_catalog(config, work)
    if (terms.mode is Mode.SEALED or terms.seal_in_browser) and (
        config_path(config).resolve().parent / ROOT_IDENTITY
    ).exists():
        note(f"warning: {ROOT_IDENTITY} is still on this machine, so sealed uploads can be read here; move it away")
    _warn_of_mail(loaded, terms.notify)
    if as_json:
        print_json(made)
    else:
        say_created(made)
        say_invitation(made, loaded.page, language)


@app.command()
@with_terms()
def edit(
    given: dict[str, Any],
    drop_id: DropId,
    no_code: Annotated[bool, typer.Option("--no-code", help="Let anyone who has the URL upload from now on.")] = False,
    confirm: Annotated[
        bool,
        typer.Option(
            "--confirm", help="Sign the terms that `drop show` shows, although somebody changed them in the database."
        ),
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change a drop-off; terms that are not named stay. A running server knows at once.

    Existing uploads keep their mode, their recipients (see `keys rotate --drop`) and their place, whatever the new
    limits. --retain holds for them too: a shorter one shreds older uploads within a minute. All its terms are signed
    again. --no-code takes the code away, and `drop new-code` makes one again. `drop close` and `reopen` change the
    rest.

    Example: dropoff-tus drop edit 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11 --expires 30d --max-uploads 0
    """
    loaded = load_config(config)
    if not given and not no_code and not confirm:
        raise CommandError("name a change, e.g. --expires 30d; `dropoff-tus drop edit --help` lists it all")

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        has_code = False if no_code else None
        done = await dropoffs(catalog, load_keys(conf)).edit(drop_id, given, has_code=has_code, confirm=confirm)
        return _usage_json(conf, *done)

    changed = with_catalog(config, work)
    if no_code:
        note(
            "no code is needed any more: anyone who has the URL can upload; `dropoff-tus drop new-code` makes one again"
        )
    _warn_of_mail(loaded, changed["notify"])
    answer(changed, "changed; see it with `dropoff-tus drop show`", as_json=as_json)


def _warn_of_mail(config: Config, notify: Sequence[str]) -> None:
    if notify and config.mail.server is None:
        note("warning: section [mail] names no server, so nobody is notified; see config.example.toml")


@app.command("list")
def list_drops(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all drop-offs, oldest first.

    Example: dropoff-tus drop list --json
    """

    async def work(catalog: SqlCatalog, conf: Config) -> list[dict[str, Any]]:
        base_url = conf.server.base_url
        return [DropAnswer.of(base_url, dropoff).model_dump(mode="json") for dropoff in await catalog.dropoffs()]

    found = with_catalog(config, work)
    if as_json:
        print_json(found)
        return
    for item in found:
        say(f"{item['id']}  {item['state']}  {item['mode']}  {show(item['name'])}")
        say(f"  page:       {item['page_url']}")
        say(f"  upload URL: {item['upload_url']}")
    if not found:
        note("there is no drop-off yet; make one with: dropoff-tus drop create --name NAME")


@app.command("show")
def show_drop(drop_id: DropId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one drop-off, its limits and its usage.

    Example: dropoff-tus drop show 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11
    """

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        return await _shown(catalog, conf, drop_id)

    _say_shown(with_catalog(config, work), as_json=as_json)


async def _shown(catalog: SqlCatalog, config: Config, drop_id: str) -> dict[str, Any]:
    dropoff = await catalog.dropoff(drop_id)
    if dropoff is None:
        raise unknown()
    return _usage_json(config, dropoff, await catalog.usage(drop_id))


def _usage_json(config: Config, dropoff: Dropoff, usage: Usage) -> dict[str, Any]:
    shown: dict[str, Any] = DropUsageAnswer.with_usage(config.server.base_url, dropoff, usage).model_dump(mode="json")
    return shown


def _say_shown(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    for key, value in found.items():
        if key == "recipients":
            say(f"recipients: {', '.join(value) or 'the configured roots'}")
        elif key == "notify":
            say(f"notify: {', '.join(value) or 'nobody'}")
        elif key == "retain_seconds":
            say(f"retain: {f'{value / 86400:g} days after completion' if value else 'for ever'}")
        elif key.startswith("max_") and not value:
            say(f"{key}: no limit")
        elif key.endswith("bytes"):
            say(f"{key}: {value} ({size(value)})")
        elif key in {"allowed_types", "name_patterns"}:
            say(f"{key}: {show(', '.join(value)) or 'any'}")
        elif isinstance(value, bool):
            say(f"{key}: {'yes' if value else 'no'}")
        else:
            say(f"{key}: {'-' if value in (None, '') else show(str(value))}")


@app.command()
def close(
    drop_id: DropId,
    now: Annotated[bool, typer.Option("--now", help="Also end running uploads.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take no new uploads; uploads that have begun may finish, unless --now.

    Example: dropoff-tus drop close 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11 --now
    """
    _set_closed(drop_id, config, closed=True, end_open=now, as_json=as_json)


@app.command()
def reopen(drop_id: DropId, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Take new uploads again.

    Example: dropoff-tus drop reopen 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11
    """
    _set_closed(drop_id, config, closed=False, end_open=False, as_json=as_json)


def _set_closed(drop_id: str, config: Path | None, *, closed: bool, end_open: bool, as_json: bool) -> None:
    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        ended = ended_drops(Path(conf.store.keys_dir))
        if not await set_closed(catalog, ended, drop_id, closed=closed, end_open=end_open):
            raise unknown()
        return await _shown(catalog, conf, drop_id)

    found = with_catalog(config, work)
    if closed:
        rest = "a running server ends its uploads within seconds"
        sentence = f"closed; {rest if end_open else 'uploads that have begun may finish'}"
    else:
        state = found["state"]
        sentence = state if state == "open" else f"not closed any more, but {state}: `drop edit` changes its times"
    answer(found, sentence, as_json=as_json)


@app.command("new-code")
def new_code(
    drop_id: DropId, language: LanguageOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Replace the code, and show the new one this once; the old one is refused at once.

    Example: dropoff-tus drop new-code 0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11
    """
    check_language(language)

    async def work(catalog: SqlCatalog, conf: Config) -> dict[str, Any]:
        return created_json(conf, *await dropoffs(catalog, load_keys(conf)).new_code(drop_id))

    made = with_catalog(config, work)
    if as_json:
        print_json(made)
    else:
        say_created(made)
        say_invitation(made, load_config(config).page, language)
