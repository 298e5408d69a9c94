"""One thing that `doctor` looked at."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Result:
    """`status` is ok, warning or problem; `detail` says what it does to uploads, and `advice` what to set."""

    check: str
    status: str
    detail: str
    advice: str = ""
