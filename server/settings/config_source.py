"""Where the configuration's text comes from: the TOML file, and the environment laid over it.

`DROPOFF_TUS__SECTION__KEY` overrides a key, `DROPOFF_TUS__SECTION__KEY_FILE` reads it from a file. A name that does not
exist, and both forms at once, are mistakes. `explain` puts mistakes into words; `server.settings.config` gives the
values their meaning.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from dropoff_tus.text import decode_text, entries

PREFIX = "DROPOFF_TUS__"
_FILE_SUFFIX = "_FILE"
_NEARLY_PREFIX = re.compile(r"DROPOFF_?TUS_+[A-Z0-9]+__", re.IGNORECASE)
_TOML_PLACE = re.compile(r"\s*\(at (?:line ([0-9]+), column ([0-9]+)|end of document)\)$")
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_FLAGS = {"true": True, "false": False}

Names = Mapping[str, Mapping[str, Any]]
"""Sections, their keys, and the types of these."""


class SourceError(Exception):
    """A file or a variable cannot be read, or a file is not TOML; the text says why and what to do."""


@dataclass(slots=True)
class Overrides:
    """The overrides of the environment: which variable gave each key, and the mistakes of others."""

    variables: dict[tuple[str, str], str] = field(default_factory=dict)
    mistakes: list[str] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)
    """Places, as `section.key`, whose variable gave no value."""


def read_toml(file: Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        SourceError: Of TOML's own mistakes with line and column.
    """
    try:
        text = decode_text(file.read_bytes())
    except FileNotFoundError:
        raise SourceError(
            f"there is no configuration at {file}; make one with `dropoff-tus init --dir DIR`, or name it with --config"
        ) from None
    except OSError as error:
        raise SourceError(f"cannot read the configuration {file}: {error.strerror}") from None
    except ValueError as error:
        raise SourceError(f"{file} {error}") from None
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise SourceError(f"{file} is nested too deeply; sections hold plain keys") from None
    except ValueError as error:  # TOMLDecodeError, and numbers too long for Python
        text, place = str(error), ""
        found = _TOML_PLACE.search(text)
        if found is not None:
            text = text[: found.start()]
            place = f", line {found[1]}, column {found[2]}" if found[1] else ", at its end"
        raise SourceError(f"{file}{place}: this is not TOML: {text[:1].lower()}{text[1:]}") from None


def lay_over(tree: dict[str, Any], environment: Mapping[str, str], names: Names) -> Overrides:
    """Put the environment's values into the tables; mistakes there are collected, and change nothing."""
    done = Overrides()
    for variable in sorted(environment):
        if not variable.startswith(PREFIX):
            if _NEARLY_PREFIX.match(variable):
                done.mistakes.append(f"{variable}: there is no such setting{_did_you_mean_variable(variable, names)}")
            continue
        section, key, from_file = _parse(variable, names)
        if key not in names.get(section, {}):
            done.mistakes.append(f"{variable}: there is no such setting{_did_you_mean_variable(variable, names)}")
            continue
        if (section, key) in done.variables:
            done.mistakes.append(f"{variable} and {done.variables[section, key]} are both set; keep one of them")
            continue
        done.variables[section, key] = variable
        table = tree.setdefault(section, {})
        try:
            value = _read(environment[variable], from_file=from_file)
        except SourceError as error:
            done.mistakes.append(f"{variable}: {error}")
            done.unread.add(f"{section}.{key}")
            continue
        if isinstance(table, dict):
            table[key] = _value(value, names[section][key])
    return done


def _read(text: str, *, from_file: bool) -> str:
    """Return a variable's text, or that of the file it names."""
    try:
        return decode_text(Path(text).read_bytes()).strip() if from_file else decode_text(os.fsencode(text))
    except OSError as error:
        message = f"cannot read the file it names: {error.strerror}"
    except ValueError as error:
        message = f"the file it names {error}" if from_file else str(error)
    raise SourceError(message)


def _parse(variable: str, names: Names) -> tuple[str, str, bool]:
    """Return section, key, and whether the value is in a file; the key is as it stands if it is not known."""
    section, _, key = variable.removeprefix(PREFIX).partition("__")
    if section != section.upper() or key != key.upper():
        return "", "", False  # other names than the documented ones, to a system that tells them apart
    section, key = section.lower(), key.lower()
    if key.endswith(_FILE_SUFFIX.lower()) and key not in names.get(section, {}):
        return section, key.removesuffix(_FILE_SUFFIX.lower()), True
    return section, key, False


def _value(text: str, kind: Any) -> object:  # noqa: ANN401 - a type
    """Return the value that TOML would have given for a variable's text; other text stays, and is refused later."""
    if _is_list(kind):
        return [item.strip() for line in entries(text) for item in line.split(",") if item.strip()]
    if kind is bool:
        return _FLAGS.get(text.strip().lower(), text)
    if kind in {int, float} and _WHOLE.fullmatch(text.strip()):
        return int(text)
    return text


def _is_list(kind: Any) -> bool:  # noqa: ANN401 - a type
    """Tell whether a key is a list, which a variable has separated by commas."""
    return get_origin(kind) is tuple


def _did_you_mean_variable(variable: str, names: Names) -> str:
    """Return a hint at the variable that was meant, or at where all names are."""
    known = [f"{PREFIX}{section}__{key}".upper() for section, keys in names.items() for key in keys]
    if variable.upper().endswith(_FILE_SUFFIX):
        known = [name + _FILE_SUFFIX for name in known]
    return _hint(difflib.get_close_matches(variable.upper(), known, 1, 0.8))


def _did_you_mean_key(section: str, key: str, names: Names) -> str:
    """Return a hint at the key that was meant: of this section, else of another."""
    near = difflib.get_close_matches(key.lower(), names.get(section, {}), 1, 0.6)
    if near:
        return _hint([f"{section}.{near[0]}"])
    elsewhere = [f"{other}.{key.lower()}" for other, keys in names.items() if key.lower() in keys]
    return _hint(elsewhere[:1])


def _did_you_mean_section(section: str, names: Names) -> str:
    """Return a hint at the section that was meant, or at the one that has a key of this name."""
    near = difflib.get_close_matches(section.lower(), names, 1, 0.6)
    owner = [f"{other}.{section.lower()}" for other, keys in names.items() if section.lower() in keys]
    return _hint([f"[{near[0]}]"] if near else owner[:1])


def _hint(candidates: Iterable[str]) -> str:
    for candidate in candidates:
        return f"; did you mean {candidate}?"
    return "; config.example.toml has all names"


_INSTEAD = {
    "bool_type": "must be true or false, without quotes",
    "int_type": "must be a whole number, without quotes",
    "float_type": "must be a number, without quotes",
    "string_type": "must be text in quotes",
    "tuple_type": 'must be a list; write e.g. ["one", "two"]',
    "missing": "is missing; config.example.toml says what to write",
    "model_type": "must be a section; write its name in [ ] on a line of its own, and its keys below",
}


def explain(item: Any, section: str, key: str, overrides: Overrides, names: Names) -> str:  # noqa: ANN401 - pydantic's
    """Say in a line what is wrong, where it was written, and what to write instead."""
    place = f"{section}.{key}" if key else section
    if (section, key) in overrides.variables:
        place = f"{place} ({overrides.variables[section, key]})"
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        if key:
            return f"{place}: there is no such key{_did_you_mean_key(section, key, names)}"
        return f"{place}: there is no such section{_did_you_mean_section(section, names)}"
    if kind == "literal_error":
        return f"{place}: must be {context['expected']}".replace("'", '"')
    if kind == "greater_than_equal":
        return f"{place}: must be {context['ge']} or more"
    if kind == "less_than_equal":
        return f"{place}: must be {context['le']} or less"
    text = _INSTEAD.get(kind, str(item["msg"]).removeprefix("Value error, "))
    if (section, key) in overrides.variables and _is_list(names[section][key]):
        text = f"{text}; in the environment without brackets and quotes, separated by commas"
    return f"{place}: {text[:1].lower()}{text[1:]}" if place else text
