"""An upload's URL beside tus: it gives the receipt, and the content where that is allowed."""

import pytest

from dropoff_tus import ids
from dropoff_tus.errors import AccessDeniedError, UploadGoneError, UploadNotFoundError
from dropoff_tus.ids import UploadToken
from dropoff_tus.model import Mode
from tests.support.aio import async_test
from tests.unit.server.usecases.world import World, token_of

_KINDS = (
    "complete",
    "unfinished",
    "sealed",
    "of another drop-off",
    "unknown",
    "ended",
    "ended and gone",
    "expired",
)
_RECEIPT = {"complete": None, "sealed": None, "ended": UploadGoneError}
_CONTENT = {"complete": None, "sealed": AccessDeniedError, "ended": UploadGoneError}
_BOTH = {"ended and gone": UploadGoneError, "expired": UploadGoneError}


async def _asked(kind: str) -> tuple[World, str, UploadToken]:
    """Return a world, and the drop-off and token to ask it for."""
    world = World(mode=Mode.SEALED if kind == "sealed" else Mode.MANAGED)
    whole = kind not in {"unfinished", "expired"}
    token = UploadToken(token_of(await world.create(3, b"012" if whole else b"0")))
    if kind.startswith("ended"):
        await world.uploads.ender.delete(token.upload_id)
    if kind == "ended and gone":
        del world.store.kept[token.upload_id]
    if kind == "expired":
        world.clock.advance(2000)
    if kind == "unknown":
        token = UploadToken("f" * 32)
    return world, "another" if kind == "of another drop-off" else world.drop.id, token


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("asked_for", ["receipt", "content"])
@async_test
async def test_url_gives_what_is_there_and_tells_nothing_of_other_uploads(asked_for: str, kind: str) -> None:
    """404 for what is not here or not finished, 410 for what was, as HEAD answers."""
    world, drop_id, token = await _asked(kind)
    finder = world.uploads.finder
    ask = finder.receipt if asked_for == "receipt" else finder.readable
    answers = _BOTH | (_RECEIPT if asked_for == "receipt" else _CONTENT)
    error = answers.get(kind, UploadNotFoundError)
    if error is None:
        assert await ask(drop_id, token)
        return
    with pytest.raises(error):
        await ask(drop_id, token)


@async_test
async def test_token_is_hashed_once_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is parsed where it comes in; from there the id goes with it."""
    world = World()
    token, hashed, derive = token_of(await world.create(5)), list[str](), ids.upload_id

    def counted(text: str) -> str:
        hashed.append(text)
        return derive(text)

    monkeypatch.setattr(ids, "upload_id", counted)
    for request in (world.patch(token, 0, b"01"), world.head(token), world.patch(token, 2, b"234"), world.head(token)):
        await request
        assert hashed == [token]
        hashed.clear()


def test_token_shows_its_id_and_never_itself() -> None:
    """Values are printed in failures; whoever has the token may write."""
    token = UploadToken("0123456789abcdef" * 2)
    assert token.secret not in repr(token)
    assert token.upload_id in repr(token)
