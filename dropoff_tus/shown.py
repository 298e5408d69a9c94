"""Client text as it is shown: in terminals, and in refusals."""

import unicodedata

UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Control, format (bidirectional ones too), surrogate, private, unassigned; separators of lines and paragraphs."""


def show(text: str) -> str:
    """Return client text as one safe line, without control, bidirectional or other format characters.

    Markup in it stays text, since nothing that is shown is read as markup. A backslash is doubled, so that no file name
    can look like an escaped one.
    """
    return "".join(
        "\\\\" if character == "\\" else _escape(character) if unicodedata.category(character) in UNSAFE else character
        for character in text
    )


def show_start(text: str, most_characters: int) -> str:
    """Do the same, and cut off what is too long to be read."""
    return show(text if len(text) <= most_characters else f"{text[:most_characters]}...")


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
