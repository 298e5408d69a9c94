"""The manifest of an export: a row for each file, as a table for people and as JSON for programs."""

import csv
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields

from dropoff_tus.shown import show

MANIFEST_CSV, MANIFEST_JSON = "manifest.csv", "manifest.json"
_FORMULA = ("=", "+", "-", "@", "'")


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One exported file. `size` and `sha256` are of the file as it was written; `receipt` is the receipt's id."""

    id: str
    path: str
    size: int
    created_at: str
    completed_at: str
    sha256: str
    sender: str | None
    receipt: str


COLUMNS = tuple(column.name for column in fields(ManifestRow))


def manifests(rows: Iterable[ManifestRow]) -> dict[str, bytes]:
    """Return the manifest in both its forms, by the name of the file."""
    ordered = sorted(rows, key=lambda row: (row.completed_at, row.id))
    listed = [{name: getattr(row, name) for name in COLUMNS} for row in ordered]
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS)
    writer.writeheader()
    for row in listed:
        writer.writerow({**row, "path": _cell(row["path"]), "sender": _cell(row["sender"] or "")})
    return {
        MANIFEST_CSV: table.getvalue().encode(),
        MANIFEST_JSON: f"{json.dumps(listed, indent=1)}\n".encode(),
    }


def read_manifest(raw: bytes) -> list[ManifestRow]:
    """Read the JSON form.

    Raises:
        ValueError: It is something else.
    """
    try:
        return [ManifestRow(**{name: item[name] for name in COLUMNS}) for item in json.loads(raw)]
    except (TypeError, KeyError, ValueError):
        raise ValueError("is no manifest of an export") from None


def _cell(text: str) -> str:
    """Return a client's text for a cell, which no spreadsheet takes for a formula."""
    shown = show(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
