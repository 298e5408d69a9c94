"""A field of a drop-off's terms: its notation, name and explanation, wherever operators meet it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from enum import StrEnum, auto
from typing import Any, get_type_hints


class Kind(StrEnum):
    """How a term is written."""

    LABEL = auto()
    TEXT = auto()
    MODE = auto()
    FLAG = auto()
    TIME = auto()
    BYTES = auto()
    COUNT = auto()
    SECONDS = auto()
    TYPES = auto()
    NAMES = auto()
    RECIPIENTS = auto()
    ADDRESSES = auto()


@dataclass(frozen=True, slots=True)
class Term:
    """One field of `DropTerms`.

    `help` is part of a sentence, and `none` what an empty value stands for. `option` is that of the command line, and
    `setting` the key of section `[dropoffs]` with its default, empty where it has none: both are named as the field
    unless they say otherwise.
    """

    kind: Kind
    help: str
    none: str = ""
    option: str | None = None
    setting: str | None = None
    type: Callable[[Any], Any] = str
    """The field's, filled in by `terms_of`."""

    @property
    def flag(self) -> str:
        """The option as it is named in a sentence."""
        return str(self.option).partition("/")[0]


def terms_of(kind: type) -> Mapping[str, Term]:
    """Return the terms of a dataclass whose fields are annotated with them, by name."""
    hints = get_type_hints(kind, include_extras=True)
    found: dict[str, Term] = {}
    for one in fields(kind):
        (term,) = hints[one.name].__metadata__
        found[one.name] = replace(
            term,
            type=hints[one.name].__origin__,
            option="--" + one.name.replace("_", "-") if term.option is None else term.option,
            setting=one.name if term.setting is None else term.setting,
        )
    return found


_LISTS = {Kind.TYPES, Kind.NAMES, Kind.RECIPIENTS, Kind.ADDRESSES}


def write_value(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Write a term's value as one of JSON."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return list(value) if isinstance(value, tuple) else value


def read_value(term: Term, value: Any) -> Any:  # noqa: ANN401 - JSON
    """Read a term's value as `write_value` wrote it.

    Raises:
        ValueError, AttributeError: It is none.
    """
    if term.kind in _LISTS:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    elif term.kind is Kind.TIME:
        if value is None or value.endswith("+00:00"):
            return None if value is None else datetime.fromisoformat(value)
    elif term.kind is Kind.MODE:
        return term.type(value)
    elif type(value) is term.type:
        return value
    raise ValueError(f"that is no {term.kind}")
