"""The payload: the JSON of tusd's hooks, as its version 2 writes it or its version 1.

Made at delivery from ids. Never in it: the token of an upload's URL, a code, a digest that was not asked for. It has
only those keys of the client's metadata, and those headers, that the configuration lists.

Source: the documentation of tusd, Hooks (HookRequest; for version 1 the header `Hook-Name`).
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from dropoff_tus.errors import DropoffError
from dropoff_tus.model import Metadata
from dropoff_tus.outbox import EventKind, OutboxRow
from dropoff_tus.ports.catalog import UploadRows
from dropoff_tus.ports.store import StoredUploads
from dropoff_tus.protocol import disagreement

_log = logging.getLogger(__name__)
Format = Literal["v2", "v1"]

TYPES = {
    "upload.created": "post-create",
    "upload.complete": "post-finish",
    "upload.rejected": "post-terminate",
    "upload.terminated": "post-terminate",
    "upload.expired": "post-terminate",
    "upload.deleted": "post-terminate",
}
"""tusd's names of our events: an upload that is gone was terminated, for whatever reason."""
METHODS = {"pre-create": "POST", "post-create": "POST", "post-finish": "PATCH", "post-terminate": "DELETE"}


async def metadata_of(store: StoredUploads, row: OutboxRow) -> Metadata | None:
    """Return the client's metadata; None where it is gone, sealed, or of another drop-off than the event."""
    try:
        stored = await store.stat(row.upload_id)
        return await store.metadata(row.upload_id) if stored.drop_id == row.drop_id else None
    except DropoffError:
        return None


async def is_true(store: StoredUploads, catalog: UploadRows, row: OutboxRow) -> bool:
    """Tell whether an event, and what the catalog says of its upload, is as the signed log has it.

    If the upload cannot be read, or is gone, the payload has only its ids.
    """
    try:
        stored = await store.stat(row.upload_id)
    except DropoffError:
        return True
    upload, ended = await catalog.upload(row.upload_id), stored.ended is not None
    happened = {EventKind.CREATED: True, EventKind.COMPLETE: stored.final or ended}.get(row.kind, ended)
    agrees = upload is None or disagreement(upload, stored) is None
    if happened and agrees and stored.drop_id == row.drop_id:
        return True
    told = {"event_id": row.event_id, "drop_id": row.drop_id, "upload_id": row.upload_id}
    _log.error("an event is not sent, since the signed log says otherwise: the catalog was changed", extra=told)
    return False


def upload_json(
    *,
    upload_id: str,
    length: int | None,
    offset: int,
    metadata: Mapping[str, str],
    partial: bool = False,
    final: bool = False,
    parts: Sequence[str] = (),
) -> dict[str, Any]:
    """Return tusd's FileInfo. Sizes are bytes; parts are upload ids."""
    return {
        "ID": upload_id,
        "Size": length or 0,
        "SizeIsDeferred": length is None,
        "Offset": offset,
        "MetaData": dict(metadata),
        "IsPartial": partial,
        "IsFinal": final,
        "PartialUploads": list(parts) or None,
        "Storage": None,
    }


def listed_metadata(metadata: Metadata | None, keys: Sequence[str]) -> dict[str, str]:
    """Return what the configuration lists of the client's metadata, as text."""
    if metadata is None:
        return {}
    return {key: value.decode("utf-8", "replace") for key, value in metadata.pairs if key in keys}


def hook_request(
    hook: str,
    upload: Mapping[str, Any],
    uri: str,
    version: Format,
    *,
    headers: Mapping[str, Sequence[str]] | None = None,
    ours: Mapping[str, Any] | None = None,
) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a hook's request.

    Args:
        hook: tusd's name of the event.
        upload: The result of `upload_json`.
        uri: The client's path, with the id, never the token.
        version: Which of tusd's forms.
        headers: Those of the client's request.
        ours: Members that tusd does not know, under `Dropoff`.
    """
    event: dict[str, Any] = {
        "Upload": upload,
        "HTTPRequest": {
            "Method": METHODS[hook],
            "URI": uri,
            "RemoteAddr": "",
            "Header": {name: list(values) for name, values in (headers or {}).items()},
        },
    }
    tree = {"Type": hook, "Event": event} if version == "v2" else event
    if ours is not None:
        tree = {**tree, "Dropoff": dict(ours)}
    return json.dumps(tree, separators=(",", ":")).encode("ascii"), {"Hook-Name": hook}
