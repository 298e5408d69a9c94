"""The optional question to an existing site before an upload begins: tusd's pre-create.

The site may refuse, and set metadata; nothing else of its answer counts, whatever it says of ids, places or headers.
Without a whole answer in time nothing begins.
"""

import json
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

from dropoff_tus import headers as grammar
from dropoff_tus.errors import DropoffError, RefusedBySiteError, SiteUnavailableError
from dropoff_tus.messages import Create
from dropoff_tus.model import Metadata, Role
from dropoff_tus.ports.clock import Clock
from server.outbox.outbound import OutboundClient, OutboundError, SiteAnswer
from server.outbox.payload import Format, hook_request, listed_metadata, upload_json
from server.outbox.signing import signed_headers

_log = logging.getLogger(__name__)
_HOOK = "pre-create"
_ANSWER_BYTES = 1 << 16
_TOLD_CHARACTERS = 500
_DIGESTS = frozenset({"sha256", "sha512", "md5"})
_REFUSALS = range(400, 500)
_OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "hook-name",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
"""Headers that say something of the question itself, whatever is listed."""


@dataclass(frozen=True, slots=True)
class PreCreateSettings:
    """The configuration of the question. `headers` and `metadata` name those of the client's that it has."""

    version: Format = "v2"
    secret: bytes | None = field(default=None, repr=False)
    headers: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    public_path: str = ""


class PreCreate:
    """Asks the site."""

    def __init__(self, client: OutboundClient, clock: Clock, settings: PreCreateSettings) -> None:
        """Take what posts, the time, and the settings."""
        self._client, self._clock, self._settings = client, clock, settings

    async def approve(self, drop_id: str, create: Create, headers: Sequence[tuple[str, str]]) -> Create:
        """Return the creation as it may begin, with the site's metadata if it set some.

        Raises:
            RefusedBySiteError: The site refuses it.
            SiteUnavailableError: There is no answer, or none that can be read; nothing begins.
        """
        body, sent = self._question(drop_id, create, headers)
        try:
            answer = await self._client.post(body, sent, most_bytes=_ANSWER_BYTES)
        except OutboundError as error:
            raise _unavailable(str(error)) from None
        if answer.body is None:
            raise _unavailable("the answer is too long")
        if self._settings.version == "v1":
            _check_v1(answer)
            return create
        return _changed(create, _check_v2(answer))

    def _question(
        self, drop_id: str, create: Create, headers: Sequence[tuple[str, str]]
    ) -> tuple[bytes, dict[str, str]]:
        settings = self._settings
        told = upload_json(
            upload_id="",
            length=(create.length or 0) if create.role is Role.FINAL else create.length,
            offset=0,
            metadata=listed_metadata(create.metadata, settings.metadata),
            partial=create.role is Role.PARTIAL,
            final=create.role is Role.FINAL,
            parts=[part.upload_id for part in create.parts],
        )
        shown: dict[str, list[str]] = {}
        wanted = {name.lower(): name.title() for name in settings.headers}
        for name, value in headers:
            if name.lower() in wanted:
                shown.setdefault(wanted[name.lower()], []).append(value)
        uri = f"{settings.public_path}/files/{drop_id}/"
        body, sent = hook_request(_HOOK, told, uri, settings.version, headers=shown, ours={"DropID": drop_id})
        sent = {**_forwarded(shown), **sent}
        if settings.secret is not None:
            sent |= signed_headers(settings.secret, uuid.uuid4().hex, int(self._clock.now().timestamp()), body)
        return body, sent


def _forwarded(shown: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Return the client's headers as the site reads them of a request, as tusd forwards them: not those of this one."""
    plain = {name: values for name, values in shown.items() if all(value.isprintable() for value in values)}
    return {
        name: ("; " if name == "Cookie" else ", ").join(values)
        for name, values in plain.items()
        if name.lower() not in _OURS and not name.lower().startswith("webhook-")
    }


def _check_v1(answer: SiteAnswer) -> None:
    """Read an answer as tusd 1 did: its status decides, and its body is the message."""
    if answer.status in _REFUSALS:
        raise RefusedBySiteError(_told((answer.body or b"").decode("utf-8", "replace")), status=answer.status)
    if answer.status not in range(200, 300):
        raise _unavailable(f"status {answer.status}")


def _check_v2(answer: SiteAnswer) -> Mapping[str, str] | None:
    """Read an answer as tusd 2 does; return the metadata that it sets, or None."""
    if answer.status not in range(200, 300):
        raise _unavailable(f"status {answer.status}")
    try:
        tree = json.loads(answer.body or b"")
    except (ValueError, RecursionError):
        raise _unavailable("the answer is not JSON") from None
    tree = _member({"": tree}, "", dict)
    response = _member(tree, "HTTPResponse", dict)
    if _member(tree, "RejectUpload", bool):
        status = _member(response, "StatusCode", int)
        text = _told(_member(response, "Body", str))
        raise RefusedBySiteError(text, status=status if status in _REFUSALS else HTTPStatus.BAD_REQUEST)
    metadata = _member(tree, "ChangeFileInfo", dict).get("MetaData")
    if metadata is None:
        return None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _unavailable("its metadata is not made of texts")
    return metadata


def _member(tree: Mapping[str, Any], name: str, kind: type) -> Any:  # noqa: ANN401 - of that kind
    """Return a member; one that is left out or null is empty, one of another kind makes the answer unreadable."""
    value = tree.get(name)
    if value is None:
        return kind()
    if type(value) is not kind:
        raise _unavailable("the answer has another form")
    return value


def _changed(create: Create, metadata: Mapping[str, str] | None) -> Create:
    """Put the site's metadata in place of the client's, but for the digests, which are the client's to promise."""
    if metadata is None:
        return create
    pairs = [(key, value.encode("utf-8", "replace")) for key, value in metadata.items() if key.lower() not in _DIGESTS]
    pairs += [(key, value) for key, value in create.metadata.pairs if key.lower() in _DIGESTS]
    made = Metadata(tuple(pairs))
    written = grammar.render_metadata(made)
    try:
        # Only metadata that a client could have sent is stored.
        fit = grammar.metadata_pairs(written) == made.pairs and len(written) <= grammar.MAX_METADATA_BYTES
    except DropoffError:
        fit = False
    if not fit:
        raise _unavailable("its metadata cannot be written")
    if any(key.lower() == grammar.CODE_KEY for key, _value in pairs):
        raise _unavailable("its metadata has a code")
    return replace(create, metadata=made)


def _told(text: str) -> str:
    """Return a site's words as one plain line."""
    shown = "".join(character if character.isprintable() else " " for character in text[:_TOLD_CHARACTERS])
    return " ".join(shown.split()) or "the site behind this server does not take this upload"


def _unavailable(why: str) -> SiteUnavailableError:
    _log.warning("the site that decides on uploads was no help", extra={"problem": why})
    return SiteUnavailableError("the site that decides on uploads does not answer; nothing was written")
