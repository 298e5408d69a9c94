"""Drop-offs with other terms."""

from dataclasses import replace
from typing import Any

from dropoff_tus.model import Dropoff


def changed(dropoff: Dropoff, **terms: Any) -> Dropoff:  # noqa: ANN401 - each has its type
    """Return a drop-off with some other terms, not signed again."""
    return replace(dropoff, terms=replace(dropoff.terms, **terms))
