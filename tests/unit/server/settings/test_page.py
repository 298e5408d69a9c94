"""Section [page]: readable colours, and refusals."""

import re
from itertools import product

import pytest
from pydantic import ValidationError

from server.settings.colours import contrast, parse_colour
from server.settings.page import LANGUAGES, PageSection
from tests.unit.server.http.test_bundle import REPOSITORY

# Ratios as WCAG's own examples and its contrast tools give them.
_KNOWN = [
    ("#000000", "#ffffff", 21.0),
    ("#ffffff", "#ffffff", 1.0),
    ("#777777", "#ffffff", 4.48),
    ("#767676", "#ffffff", 4.54),
    ("#ff0000", "#ffffff", 4.0),
    ("#0000ff", "#ffffff", 8.59),
    ("#0b5560", "#ffffff", 8.46),
]


@pytest.mark.parametrize(("first", "second", "ratio"), _KNOWN)
def test_contrast_is_that_of_wcag_in_either_order(first: str, second: str, ratio: float) -> None:
    """As published, to the second digit."""
    assert contrast(first, second) == pytest.approx(ratio, abs=0.005)
    assert contrast(second, first) == contrast(first, second)


@pytest.mark.parametrize(("written", "read"), [("#FFF", "#ffffff"), ("#0b5560", "#0b5560"), ("#aBc", "#aabbcc")])
def test_colour_is_read_in_either_form(written: str, read: str) -> None:
    """Three digits or six, in either case."""
    assert parse_colour(written) == read


@pytest.mark.parametrize(
    "written", ["", "red", "fff", "#ffff", "#ggg", "#fff;}", "rgb(0,0,0)", "#ffffff\n", 7, None, "url(x)"]
)
def test_colour_that_is_none_is_refused(written: object) -> None:
    """Nothing but a colour can come to stand in the style sheet."""
    with pytest.raises(ValueError, match="is no colour"):
        parse_colour(written)


def test_own_colours_of_the_page_are_readable_and_are_those_of_its_style() -> None:
    """The defaults pass their check, and the style sheet has the same, with the grounds that they are checked on."""
    section = PageSection()
    style = (REPOSITORY / "server/web/page/src/page.css").read_text("utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    for block, suffix in ((light, ""), (dark, "_dark")):
        found = {name: parse_colour(value) for name, value in re.findall(r"--([\w-]+): (#\w+)", block)}
        for name in ("brand", "on_brand", "shade"):
            assert getattr(section, name + suffix) == found[name.replace("_", "-")]
        pairs = [(colour, on) for key, colour, _, on in section.pairs() if key.endswith("_dark") == bool(suffix)]
        assert {found["paper"], found["ink"], found["soft"]} <= {on for _, on in pairs}
        assert all(contrast(colour, on) >= 4.5 for colour, on in pairs)


_PLUM = {"brand": "#7a1f4b", "brand_dark": "#f0a9c8", "on_brand_dark": "#3a0a20"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"brand": "#ff9999"}, "brand = #ff9999 and the light page (#ffffff) have a contrast of 2."),
        ({"brand_dark": "#7a1f4b"}, "brand_dark = #7a1f4b and the dark page (#0f1615)"),
        ({"on_brand": "#000"}, "on_brand = #000000 and brand (#7a1f4b)"),
        ({"on_brand_dark": "#fff"}, "on_brand_dark = #ffffff and brand_dark (#f0a9c8)"),
        ({"shade": "#b59aa8"}, "brand = #7a1f4b and shade (#b59aa8)"),
        ({"shade_dark": "#555"}, "brand_dark"),
    ],
    ids=["paper", "dark-paper", "text", "dark-text", "shade", "dark-shade"],
)
def test_colour_that_cannot_be_read_is_refused_with_what_it_meets(changed: dict[str, str], words: str) -> None:
    """In light and in dark: on the page, on the shade, and under its own text."""
    PageSection.model_validate(_PLUM)
    with pytest.raises(ValidationError) as caught:
        PageSection.model_validate(_PLUM | changed)
    assert words in str(caught.value)


def test_shade_on_which_the_text_of_the_page_cannot_be_read_is_refused() -> None:
    """Also where the brand itself could be."""
    with pytest.raises(ValidationError, match="shade = #8a8a8a and the page's light small text"):
        PageSection.model_validate({"brand": "#000", "brand_dark": "#fff", "on_brand_dark": "#000", "shade": "#8a8a8a"})


def test_brand_of_one_kind_of_screen_wants_the_other() -> None:
    """Else an institute in red would be another's blue at night."""
    with pytest.raises(ValidationError, match="brand and brand_dark belong together"):
        PageSection.model_validate({"brand": "#7a1f4b"})


@pytest.mark.parametrize("languages", [("nl", "en"), ("de",), LANGUAGES])
def test_languages_keep_their_order(languages: tuple[str, ...]) -> None:
    """The first one is what the page speaks where it knows nothing better."""
    assert PageSection.model_validate({"languages": languages}).languages == languages


@pytest.mark.parametrize("languages", [(), ("nl", "nl"), ("xx",), "en", ("en", 5)])
def test_languages_that_the_page_does_not_speak_are_refused(languages: object) -> None:
    """With those that there are."""
    with pytest.raises(ValidationError, match="en, nl, de, fr, es"):
        PageSection.model_validate({"languages": languages})


@pytest.mark.parametrize(("key", "value"), [*product(("institute", "phone"), ("x" * 500, "a\0b", " "))])
def test_names_are_lines_that_can_be_shown(key: str, value: str) -> None:
    """As the labels of drop-offs."""
    with pytest.raises(ValidationError):
        PageSection.model_validate({key: value})
