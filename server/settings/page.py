"""`[page]`: the institute of the upload page. Its colours have to be readable, in light and in dark."""

from collections.abc import Iterator
from typing import Annotated, NamedTuple

from pydantic import BeforeValidator, model_validator

from server.settings.colours import READABLE, contrast, parse_colour
from server.settings.setting_types import FilePath, MailAddress, Section
from server.settings.units import check_label

LANGUAGES = ("en", "nl", "de", "fr", "es")
"""Those that the page speaks."""


class _Ground(NamedTuple):
    """The colours that the institute's meet on the page, as its page.css has them."""

    name: str
    suffix: str
    paper: str
    ink: str
    soft: str


_GROUNDS = (
    _Ground("light", "", "#ffffff", "#14201f", "#485856"),
    _Ground("dark", "_dark", "#0f1615", "#e8efed", "#aab9b6"),
)


def _label(value: object) -> object:
    if isinstance(value, str) and value and (problem := check_label(value)):
        raise ValueError(problem)
    return value


def _languages(value: object) -> object:
    if not isinstance(value, tuple) or not value or not set(value) <= set(LANGUAGES) or len(set(value)) < len(value):
        raise ValueError(f'must be a list of one or more of {", ".join(LANGUAGES)}, each once; write e.g. ["nl", "en"]')
    return value


Label = Annotated[str, BeforeValidator(_label)]
Colour = Annotated[str, BeforeValidator(parse_colour)]
Languages = Annotated[tuple[str, ...], BeforeValidator(_languages)]


class PageSection(Section):
    """`[page]`."""

    institute: Label = ""
    email: MailAddress | None = None
    phone: Label = ""
    logo: FilePath | None = None
    logo_dark: FilePath | None = None
    languages: Languages = LANGUAGES
    brand: Colour = "#0b5560"
    on_brand: Colour = "#ffffff"
    shade: Colour = "#f0f5f4"
    brand_dark: Colour = "#86d3d6"
    on_brand_dark: Colour = "#06272a"
    shade_dark: Colour = "#18211f"

    @model_validator(mode="after")
    def _readable(self) -> "PageSection":
        if len({"brand", "brand_dark"} & self.model_fields_set) == 1:
            raise ValueError("brand and brand_dark belong together, for light and dark screens; write both or none")
        if self.logo_dark is not None and self.logo is None:
            raise ValueError("logo_dark needs logo, which light screens show; write both, or logo for both")
        for key, colour, ground, on in self.pairs():
            ratio = contrast(colour, on)
            if ratio < READABLE:
                raise ValueError(
                    f"{key} = {colour} and {ground} ({on}) have a contrast of {int(ratio * 100) / 100}:1, and below "
                    f"{READABLE}:1 one cannot be read on the other; write a colour that is further from it"
                )
        return self

    def pairs(self) -> Iterator[tuple[str, str, str, str]]:
        """Return what is read on what: a key and its colour, and what it is on."""
        for ground in _GROUNDS:
            end = ground.suffix
            brand, on_brand, shade = (str(getattr(self, name + end)) for name in ("brand", "on_brand", "shade"))
            yield f"brand{end}", brand, f"the {ground.name} page", ground.paper
            yield f"brand{end}", brand, f"shade{end}", shade
            yield f"on_brand{end}", on_brand, f"brand{end}", brand
            yield f"shade{end}", shade, f"the page's {ground.name} text", ground.ink
            yield f"shade{end}", shade, f"the page's {ground.name} small text", ground.soft
