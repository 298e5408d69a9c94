"""A drop-off's terms are declared in one place: a field that is added there works wherever operators meet it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

_ID = "0b3c1a52-7f0e-4c55-9d0a-0e3a6d6f1c11"
_PROGRAM = """
import dataclasses, json, os, sys, typing
from dropoff_tus import model, terms

fields = [
    ("throwaway", typing.Annotated[bool, terms.Term(terms.Kind.FLAG, "Whether it is thrown away")], False),
    ("thrown", typing.Annotated[int, terms.Term(terms.Kind.BYTES, "How far", none="not at all", setting="far")], 0),
]
model.DropTerms = dataclasses.make_dataclass("DropTerms", fields, bases=(model.DropTerms,), frozen=True, slots=True)
model.TERMS = terms.terms_of(model.DropTerms)
from server.cli.commands import audit, drop, init
from server.cli.main import main
from server.http.api import openapi
from server.http.api.routes import ROOT, ROUTES

with open("api.json", "wb") as file:
    file.write(openapi.describe(ROOT, ROUTES))
for number, arguments in enumerate(json.loads(sys.argv[1])):
    if not os.fork():
        os.dup2(os.open(f"{number}.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        sys.argv = ["dropoff-tus", *arguments]
        main()
        sys.exit(0)
    assert os.wait()[1] == 0, arguments
"""


def _run(folder: Path, *commands: tuple[str, ...]) -> list[Any]:
    """Run commands of a program whose drop-offs have two more terms; return their answers."""
    lines = json.dumps([(*line, "--json") for line in commands])
    settings = {"DROPOFF_TUS_CONFIG": "made/config.toml", "DROPOFF_TUS__DROPOFFS__FAR": "2KiB"}
    command = [sys.executable, "-c", _PROGRAM, lines]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **settings}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads((folder / f"{number}.json").read_bytes()) for number in range(len(commands))]


def test_field_added_to_the_terms_works_everywhere(tmp_path: Path) -> None:
    """Option, key of the configuration, catalog, signature, answers and the API's description know it."""
    _, _, shown, edited, verified, audit = _run(
        tmp_path,
        ("init", "--dir", "made"),
        ("drop", "create", "--id", _ID, "--name", "x", "--throwaway"),
        ("drop", "show", _ID),
        ("drop", "edit", _ID, "--no-throwaway", "--thrown", "1MB"),
        ("audit", "verify"),
        ("audit", "export"),
    )
    assert (shown["throwaway"], shown["thrown"]) == (True, 2048)
    assert (edited["throwaway"], edited["thrown"]) == (False, 1_000_000)
    assert verified["changed_drops"] == []
    assert "throwaway thrown" in [row.get("result") for row in audit["rows"]]
    schemas = json.loads((tmp_path / "api.json").read_bytes())["components"]["schemas"]
    for model in ("DropCreation", "DropEditing", "DropAnswer"):
        assert {"throwaway", "thrown"} <= schemas[model]["properties"].keys()
