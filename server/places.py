"""Where the configuration says that keys, store and catalog are, and whether they are ours to work on."""

from pathlib import Path

from server.config import Config
from storage.catalog import catalog_file
from storage.keys import KeyPlaces, KeySourceError
from storage.keysource import check_owner_only, read_source
from storage.layout import Layout
from storage.marker import NAME
from storage.owner import check_owner

__all__ = ["KeySourceError", "check_owner_only", "check_whose", "key_places", "layout_of", "read_source"]


def key_places(config: Config) -> KeyPlaces:
    """Return the sources of the keys that the configuration names."""
    keys = config.keys
    return KeyPlaces(
        signing_key=str(keys.signing_key),
        code_key=str(keys.code_key),
        managed_identity=str(keys.managed_identity),
        ingest_dir=Path(keys.ingest_dir),
    )


def layout_of(config: Config) -> Layout:
    """Return where the configuration says that the store's folders are."""
    return Layout(Path(config.store.dir), Path(config.store.keys_dir), Path(config.keys.ingest_dir))


def check_whose(config: Config) -> None:
    """Refuse to open a store, its keys and its catalog for anybody but their owner, to read as well.

    A command that reads records it in the audit, or repairs what a crash left.

    Raises:
        ForeignOwnerError: They are somebody else's.
        CatalogError: catalog.url is wrong.
    """
    layout = layout_of(config)
    file = catalog_file(config.catalog.url)
    ids = [folder / NAME for folder in (layout.uploads, layout.keys_dir)]
    check_owner([*ids, *([] if file is None else [file])])
