"""The one place where errors become sentences."""

import pytest

from dropoff_tus.errors import InvalidFieldError, StorageFailedError, ToldError
from server.cli.main import sentence_of
from server.cli.output import CommandError
from server.services import StartError
from server.settings.config import ConfigError
from storage.catalog import CatalogError
from storage.files.marker import WrongStoreError
from storage.files.owner import ForeignOwnerError
from storage.keyring.keysource import KeySourceError


@pytest.mark.parametrize(
    "kind",
    [CommandError, ConfigError, StartError, CatalogError, WrongStoreError, ForeignOwnerError, KeySourceError],
)
def test_error_for_operators_is_its_own_sentence(kind: type[ToldError]) -> None:
    """Whichever part of the program raises it, since all have one root."""
    assert sentence_of(kind("a sentence")) == "a sentence"


@pytest.mark.parametrize(
    ("field", "option"),
    [("expires_at", "--expires"), ("mode", "--sealed"), ("notify", "--notify"), ("scope", "--scope")],
)
def test_field_that_cannot_be_is_named_by_its_option(field: str, option: str) -> None:
    """The operator typed the option, and never saw the field's name."""
    assert sentence_of(InvalidFieldError(field, "is wrong")) == f"{option} is wrong"


def test_disk_that_failed_is_named() -> None:
    """A command has no log in which its place could be."""
    error = StorageFailedError("the disk failed")
    error.__cause__ = OSError(5, "Input/output error", "/srv/store")
    assert sentence_of(error) == "the disk failed (/srv/store: Input/output error)"
    assert sentence_of(PermissionError(13, "Permission denied", "/x")) == "/x: Permission denied"


def test_bug_has_no_sentence() -> None:
    """Its traceback is what helps."""
    assert sentence_of(KeyError("x")) is None
