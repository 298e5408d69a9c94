"""A drop-off's terms where operators write and read them: a row for each kind, and the defaults merged in one place."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, StringConstraints

from dropoff_tus.model import TERMS, DropTerms, Mode
from dropoff_tus.terms import Kind, Term
from server.settings.setting_types import (
    Count,
    Duration,
    MailAddresses,
    NamePatterns,
    Size,
    TypePatterns,
    When,
)
from server.settings.units import (
    MOST_ADDRESSES,
    MOST_LABEL_CHARACTERS,
    parse_duration,
    parse_size,
    parse_time,
)

_MOST_BYTES = 2**63 - 1
MOST_COUNT = 2**31 - 1
_MOST_PATTERNS = 100
_MOST_RECIPIENTS = 16

_Pattern = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Patterns = Annotated[list[_Pattern], Field(max_length=_MOST_PATTERNS)]
_Recipient = Annotated[str, StringConstraints(max_length=4096)]
_Address = Annotated[str, StringConstraints(max_length=254)]
_Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"}, max_length=64)]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Natural = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True)
class Form:
    """How a kind of term is written.

    `setting` is its type in the configuration, `request` in the API's bodies, `answer` in its answers. `read` reads an
    option's text as the configuration would, and `hint` tells in its help what to write. `nothing` is how the API and
    the command line write an empty value.
    """

    setting: Any
    request: Any
    answer: Any
    read: Callable[[str], object] = str
    hint: str = ""
    nothing: tuple[str, str] = ("empty", "''")


_NUMBER = ("0", "0")
FORMS = {
    Kind.LABEL: Form(
        str, Annotated[str, StringConstraints(min_length=1, max_length=MOST_LABEL_CHARACTERS, pattern=r"\S")], str
    ),
    Kind.TEXT: Form(str, Annotated[str, StringConstraints(max_length=MOST_LABEL_CHARACTERS)], str),
    Kind.MODE: Form(bool, Mode, Mode),
    Kind.FLAG: Form(bool, bool, bool),
    Kind.TIME: Form(
        When | None, _Moment | None, Time | None, hint=", e.g. 7d or 2030-01-31T12:00:00Z", nothing=("null", "0")
    ),
    Kind.BYTES: Form(
        Size, Annotated[int, Field(ge=0, le=_MOST_BYTES)], Natural, parse_size, hint=", e.g. 10GiB", nothing=_NUMBER
    ),
    Kind.COUNT: Form(Count, Annotated[int, Field(ge=0, le=MOST_COUNT)], Natural, nothing=_NUMBER),
    Kind.SECONDS: Form(
        Duration,
        Annotated[int, Field(ge=0, le=MOST_COUNT)],
        Natural,
        parse_duration,
        hint=", e.g. 90d",
        nothing=_NUMBER,
    ),
    Kind.TYPES: Form(TypePatterns, _Patterns, list[str]),
    Kind.NAMES: Form(NamePatterns, _Patterns, list[str]),
    Kind.RECIPIENTS: Form(tuple[str, ...], Annotated[list[_Recipient], Field(max_length=_MOST_RECIPIENTS)], list[str]),
    Kind.ADDRESSES: Form(MailAddresses, Annotated[list[_Address], Field(max_length=MOST_ADDRESSES)], list[str]),
}


def described(term: Term) -> str:
    """Return what the API's description says of a term."""
    return f"{term.help}; {FORMS[term.kind].nothing[0]}: {term.none}." if term.none else f"{term.help}."


def explained(term: Term) -> str:
    """Return what the help of an option says of a term."""
    form = FORMS[term.kind]
    return f"{term.help}{form.hint}; {form.nothing[1]}: {term.none}." if term.none else f"{term.help}."


def value_of(term: Term, setting: Any, now: datetime) -> Any:  # noqa: ANN401 - each term has its type
    """Return the value of a term that a key of the configuration, or an option, says."""
    match term.kind:
        case Kind.TIME:
            return None if setting in {None, "", "0"} else parse_time(setting, now)
        case Kind.MODE:
            return Mode.SEALED if setting else Mode.MANAGED
        case Kind.SECONDS:
            return int(setting)
        case _:
            return setting


def setting_fields() -> dict[str, Any]:
    """Return the keys of section `[dropoffs]`, each with its type and its default, for pydantic's `create_model`."""
    defaults = {one.name: one.default for one in fields(DropTerms)}
    return {
        term.setting: (
            FORMS[term.kind].setting,
            defaults[name] is Mode.SEALED if term.kind is Kind.MODE else defaults[name],
        )
        for name, term in TERMS.items()
        if term.setting
    }
