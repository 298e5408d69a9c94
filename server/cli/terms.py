"""The options of `drop create` and `drop edit`: one for each of a drop-off's terms."""

import inspect
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from dropoff_tus.errors import InvalidFieldError
from dropoff_tus.model import TERMS
from dropoff_tus.terms import Kind, Term
from server.cli.context import recipients_option
from server.cli.output import CommandError
from server.settings.drop_terms import FORMS, MOST_COUNT, explained, value_of

Command = Callable[..., None]
_TYPES: dict[Kind, Any] = {
    Kind.COUNT: int,
    Kind.MODE: bool,
    Kind.FLAG: bool,
    **dict.fromkeys((Kind.TYPES, Kind.NAMES, Kind.RECIPIENTS, Kind.ADDRESSES), list[str]),
}


def with_terms(*, required: tuple[str, ...] = ()) -> Callable[[Command], Command]:
    """Give a command an option for each term; it gets what was said with them as `given`, by the names of the terms."""

    def decorate(command: Command) -> Command:
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


def refused(error: InvalidFieldError) -> CommandError:
    """Return the refusal of what cannot be, with the option that said it."""
    option = _name(TERMS[error.field]) if error.field in TERMS else f"--{error.field}"
    return CommandError(f"{option} {error.problem}")


def _option(name: str, term: Term, *, required: bool) -> inspect.Parameter:
    of = _TYPES.get(term.kind, str)
    several = of is not int and of is not bool and of is not str
    flags = f"{term.option}/--no-{_name(term)[2:]}" if term.kind is Kind.FLAG else term.option
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
    try:
        return value_of(term, FORMS[term.kind].read(said) if isinstance(said, str) else said, datetime.now(UTC))
    except ValueError as error:
        message = f"{_name(term)} {error}"
        raise CommandError(message) from None


def _name(term: Term) -> str:
    return str(term.option).partition("/")[0]
