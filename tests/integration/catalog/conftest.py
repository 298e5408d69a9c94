"""The databases under test: a fixture gives the URL of a new, migrated catalog on each of them."""

from pathlib import Path

import pytest

from storage.catalog import migrate


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Return the URL of a migrated SQLite catalog in a folder of its own."""
    folder = tmp_path / "catalog"
    folder.mkdir()
    url = f"sqlite:///{folder}/catalog.sqlite3"
    migrate(url)
    return url


@pytest.fixture(params=["sqlite"])
def catalog_url(request: pytest.FixtureRequest) -> str:
    """Return the URL of a migrated catalog, once for each database."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url
