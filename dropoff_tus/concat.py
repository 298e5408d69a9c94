"""Upload-Concat: `partial`, or `final;` and the URLs of the parts.

Source: tus 1.0.0, concatenation.
"""

from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from dropoff_tus.errors import InvalidConcatError, PartNotFoundError
from dropoff_tus.ids import UploadToken
from dropoff_tus.model import Role

MAX_PARTS = 200


def parse(text: str | None, drop_id: str) -> tuple[Role, tuple[UploadToken, ...]]:
    """Return the role and, for a final, the tokens of its parts in order.

    URLs may be absolute or relative, and are matched on their last two path segments, in this drop-off only.

    Raises:
        InvalidConcatError: Malformed, empty, too many, or a part named twice.
        PartNotFoundError: A URL is not an upload of this drop-off.
    """
    if text is None:
        return Role.REGULAR, ()
    if text == "partial":
        return Role.PARTIAL, ()
    word, semicolon, rest = text.partition(";")
    urls = rest.split()
    if word.strip() != "final" or not semicolon or not urls:
        raise InvalidConcatError("Upload-Concat must be `partial`, or `final;` followed by the URLs of the parts")
    if len(urls) > MAX_PARTS:
        raise InvalidConcatError(f"Upload-Concat names more than {MAX_PARTS} parts")
    tokens = tuple(_token(url, drop_id) for url in urls)
    if len(set(tokens)) != len(tokens):
        raise InvalidConcatError("Upload-Concat names a part twice")
    return Role.FINAL, tokens


def render(role: Role, part_ids: Sequence[str]) -> str | None:
    """Return what HEAD shows as Upload-Concat; None for an upload that has nothing to do with concatenation.

    A final shows the upload *ids* of its parts, not their URLs as received: the server does not keep the tokens
    these end in. So the value has the form and the number of parts that a client expects, and gives no rights.

    Source: tus 1.0.0, concatenation ("Response to HEAD request against partial or final upload MUST include the
    Upload-Concat header and its value as received in the upload creation request").
    """
    if role is Role.FINAL:
        return "final;" + " ".join(part_ids)
    return "partial" if role is Role.PARTIAL else None


def _token(url: str, drop_id: str) -> UploadToken:
    try:
        segments = [unquote(piece) for piece in urlsplit(url).path.split("/") if piece]
    except ValueError:
        segments = []
    token = UploadToken.parse(segments[-1]) if segments[-2:-1] == [drop_id] else None
    if token is None:
        raise PartNotFoundError("a part of the concatenation is no upload of this drop-off")
    return token
