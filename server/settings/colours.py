"""Colours as the configuration writes them, and how well one can be read on another, as WCAG measures it.

Source: WCAG 2.2, "relative luminance", "contrast ratio" and success criterion 1.4.3.
"""

import re

READABLE = 4.5
"""The least contrast of text with what it stands on."""
_HEX = re.compile(r"#(?:[0-9A-Fa-f]{3}){1,2}")
_WEIGHTS = (0.2126, 0.7152, 0.0722)


def parse_colour(value: object) -> str:
    """Read a colour such as `#0b5560` or `#fff`; returns it with six digits.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, str) or _HEX.fullmatch(value) is None:
        raise ValueError('is no colour; write e.g. "#0b5560"')
    digits = value[1:].lower()
    return "#" + (digits if len(digits) == 6 else "".join(digit * 2 for digit in digits))  # noqa: PLR2004 - rrggbb


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours of six digits: 1 if they are equal, 21 for black and white."""
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    return sum(weight * _linear(byte / 255) for weight, byte in zip(_WEIGHTS, bytes.fromhex(colour[1:]), strict=True))


def _linear(share: float) -> float:
    return share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4  # noqa: PLR2004 - sRGB's own
