"""Where the configuration says that keys are."""

from pathlib import Path

from server.config import Config
from storage.keys import KeyPlaces, KeySourceError
from storage.keysource import read_source

__all__ = ["KeySourceError", "key_places", "read_source"]


def key_places(config: Config) -> KeyPlaces:
    """Return the sources of the keys that the configuration names."""
    keys = config.keys
    return KeyPlaces(
        signing_key=str(keys.signing_key),
        code_key=str(keys.code_key),
        managed_identity=str(keys.managed_identity),
        ingest_dir=Path(keys.ingest_dir),
    )
