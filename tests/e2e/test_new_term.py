"""A drop-off's terms are declared in one place: a field that is added there works wherever operators meet it."""

import json
import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import dataclasses
import typing
from dropoff_tus import model, terms

fields = [
    ("throwaway", typing.Annotated[bool, terms.Term(terms.Kind.FLAG, "Whether it is thrown away")], False),
    ("thrown", typing.Annotated[int, terms.Term(terms.Kind.BYTES, "How far", none="not at all", setting="far")], 0),
]
model.DropTerms = dataclasses.make_dataclass("DropTerms", fields, bases=(model.DropTerms,), frozen=True, slots=True)
model.TERMS = terms.terms_of(model.DropTerms)
from server.cli.main import main
main()
"""
_API = _PROGRAM.replace(
    "from server.cli.main import main\nmain()",
    "from server.http.api import openapi\nfrom server.http.api.routes import ROOT, ROUTES\n"
    "print(openapi.describe(ROOT, ROUTES).decode())",
)


def _run(folder: Path, program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=50
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_field_added_to_the_terms_works_everywhere(tmp_path: Path) -> None:
    """Option, key of the configuration, catalog, signature, answers and the API's description know it."""
    _run(tmp_path, _PROGRAM, "init", "--dir", str(tmp_path))
    config = ("--config", str(tmp_path / "config.toml"))
    with (tmp_path / "config.toml").open("a", encoding="utf-8") as file:
        file.write('\n[dropoffs]\nfar = "2KiB"\n')
    made = json.loads(_run(tmp_path, _PROGRAM, *config, "drop", "create", "--name", "x", "--throwaway", "--json"))
    shown = json.loads(_run(tmp_path, _PROGRAM, *config, "drop", "show", made["id"], "--json"))
    assert (shown["throwaway"], shown["thrown"]) == (True, 2048)
    edit = ("drop", "edit", made["id"], "--no-throwaway", "--thrown", "1MB", "--json")
    shown = json.loads(_run(tmp_path, _PROGRAM, *config, *edit))
    assert (shown["throwaway"], shown["thrown"]) == (False, 1_000_000)
    assert json.loads(_run(tmp_path, _PROGRAM, *config, "audit", "verify", "--json"))["changed_drops"] == []
    told = json.loads(_run(tmp_path, _PROGRAM, *config, "audit", "export", "--json"))["rows"]
    assert "throwaway thrown" in [row.get("result") for row in told]
    schemas = json.loads(_run(tmp_path, _API))["components"]["schemas"]
    for model in ("DropCreation", "DropEditing", "DropAnswer"):
        assert {"throwaway", "thrown"} <= schemas[model]["properties"].keys()
