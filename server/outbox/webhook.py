"""The webhook: one POST for each event, to the one URL of the configuration."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dropoff_tus.errors import DropoffError
from dropoff_tus.model import Role, UploadRow
from dropoff_tus.outbox import EventKind, OutboxRow, SinkName
from dropoff_tus.ports.catalog import UploadRows
from dropoff_tus.ports.clock import Clock
from dropoff_tus.ports.store import StoredUploads
from server.outbox.loop import DeliveryError
from server.outbox.outbound import OutboundClient, OutboundError
from server.outbox.payload import TYPES, Format, hook_request, is_true, listed_metadata, metadata_of, upload_json
from server.outbox.signing import signed_headers

_SIDE_BY_SIDE = 8
_ANSWER_BYTES = 1 << 16
_TAKEN = range(200, 300)


@dataclass(frozen=True, slots=True)
class WebhookSettings:
    """The configuration of webhooks."""

    secret: bytes = field(repr=False)
    version: Format = "v2"
    metadata: tuple[str, ...] = ()
    public_path: str = ""
    timeout_seconds: float = 10.0
    max_attempts: int = 18


class WebhookCourier:
    """Implements `loop.Courier`."""

    sink = SinkName.WEBHOOK
    claim_rows = side_by_side = _SIDE_BY_SIDE
    rounds = 1

    def __init__(
        self, client: OutboundClient, store: StoredUploads, catalog: UploadRows, clock: Clock, settings: WebhookSettings
    ) -> None:
        """Take what posts, where uploads are looked up, and the settings."""
        self._client, self._store, self._catalog, self._clock = client, store, catalog, clock
        self._settings = settings
        self.timeout_seconds = settings.timeout_seconds
        self.max_attempts = settings.max_attempts

    def groups(self, rows: Sequence[OutboxRow]) -> list[list[OutboxRow]]:
        """Deliver each event by itself."""
        return [[row] for row in rows]

    async def deliver(self, rows: Sequence[OutboxRow]) -> None:
        """Post an event.

        Raises:
            DeliveryError: There was no answer, or its status is not 2xx.
        """
        for row in rows:
            if not await is_true(self._store, self._catalog, row):
                continue
            body, headers = await self._made(row)
            now = int(self._clock.now().timestamp())
            signed = signed_headers(self._settings.secret, row.event_id, now, body)
            try:
                answer = await self._client.post(body, {**headers, **signed}, most_bytes=_ANSWER_BYTES)
            except OutboundError as error:
                raise DeliveryError(str(error)) from None
            if answer.status not in _TAKEN:
                raise DeliveryError(f"status {answer.status}")

    async def _made(self, row: OutboxRow) -> tuple[bytes, dict[str, str]]:
        """Make body and headers from what is so now. For an upload that is gone it has only the ids."""
        settings = self._settings
        upload = await self._catalog.upload(row.upload_id)
        metadata = await metadata_of(self._store, row) if settings.metadata else None
        is_final = upload is not None and upload.role is Role.FINAL
        told = upload_json(
            upload_id=row.upload_id,
            length=upload.length if upload is not None else None,
            offset=0 if row.kind is EventKind.CREATED else await self._arrived(row.upload_id, upload),
            metadata=listed_metadata(metadata, settings.metadata),
            final=is_final,
            parts=[part.id for part in await self._catalog.parts(row.upload_id)] if is_final else (),
        )
        ours = {
            "Event": row.kind.value,
            "EventID": row.event_id,
            "DropID": row.drop_id,
            "At": row.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        uri = f"{settings.public_path}/files/{row.drop_id}/{row.upload_id}"
        return hook_request(TYPES[row.kind.value], told, uri, settings.version, ours=ours)

    async def _arrived(self, upload_id: str, upload: UploadRow | None) -> int:
        """Return how many bytes came, of what has ended as well."""
        if upload is not None and upload.size_bytes is not None:
            return upload.size_bytes
        try:
            return (await self._store.stat(upload_id)).offset
        except DropoffError:
            return 0
