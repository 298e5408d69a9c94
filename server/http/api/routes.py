"""The table of routes: the scope, the request and the answer of each. The API's description is made from it."""

from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from dropoff_tus.errors import UnauthorizedError
from dropoff_tus.model import Scope
from server.answers import DeletedAnswer, DropUsageAnswer, NewDropAnswer, UploadDetailAnswer
from server.http.api import drops, openapi, uploads
from server.http.api.access import LIMITED_TO
from server.http.api.requests import (
    Closing,
    ContentFilter,
    DropCreation,
    DropEditing,
    DropFilter,
    UploadFilter,
    Waiting,
)
from server.http.api.route import Route
from server.http.appkeys import API_TOKEN_ID, API_TOKENS, CONFIG, ROUTE
from server.http.download import TAR
from server.http.forwarded import client_of

ROOT = "/api/v1"
_DROP, _UPLOAD = "/drops/{drop_id}", "/uploads/{upload_id}"
_BYTES = (404, 409, 410)
ROUTES = (
    Route("GET", "/drops", Scope.DROPS_READ, drops.list_drops, drops.DropsAnswer, query=DropFilter, refusals=(400,)),
    Route(
        "POST", "/drops", Scope.DROPS_WRITE, drops.create_drop, NewDropAnswer, 201, body=DropCreation, refusals=(409,)
    ),
    Route("GET", _DROP, Scope.DROPS_READ, drops.show_drop, DropUsageAnswer, refusals=(404,)),
    Route("PATCH", _DROP, Scope.DROPS_WRITE, drops.edit_drop, DropUsageAnswer, body=DropEditing, refusals=(404,)),
    Route(
        "POST",
        f"{_DROP}/close",
        Scope.DROPS_WRITE,
        drops.close_drop,
        DropUsageAnswer,
        body=Closing,
        body_needed=False,
        refusals=(404,),
    ),
    Route("POST", f"{_DROP}/reopen", Scope.DROPS_WRITE, drops.reopen_drop, DropUsageAnswer, refusals=(404,)),
    Route("POST", f"{_DROP}/new-code", Scope.DROPS_WRITE, drops.new_code, NewDropAnswer, refusals=(404, 422)),
    Route(
        "POST",
        f"{_DROP}/purge",
        Scope.UPLOADS_DELETE,
        drops.purge_drop,
        drops.PurgedAnswer,
        later=True,
        query=Waiting,
        refusals=(400, 404),
    ),
    Route(
        "GET",
        f"{_DROP}/content",
        Scope.UPLOADS_DOWNLOAD,
        drops.get_drop_content,
        None,
        query=ContentFilter,
        content=TAR,
        refusals=(400, 404, 422, 500),
    ),
    Route(
        "GET",
        "/uploads",
        Scope.UPLOADS_READ,
        uploads.list_uploads,
        uploads.UploadsAnswer,
        query=UploadFilter,
        refusals=(400, 404),
    ),
    Route("GET", _UPLOAD, Scope.UPLOADS_READ, uploads.show_upload, UploadDetailAnswer, refusals=(404,)),
    Route("GET", f"{_UPLOAD}/receipt", Scope.UPLOADS_READ, uploads.get_receipt, None, refusals=_BYTES),
    Route(
        "GET",
        f"{_UPLOAD}/content",
        Scope.UPLOADS_DOWNLOAD,
        uploads.get_content,
        None,
        ranges=True,
        refusals=(*_BYTES, 416),
    ),
    Route("DELETE", _UPLOAD, Scope.UPLOADS_DELETE, uploads.delete_upload, DeletedAnswer, refusals=(404, 409, 423)),
)


def add_routes(app: web.Application) -> None:
    """Add the API to the application."""
    for route in ROUTES:
        app.router.add_route(route.method, ROOT + route.path, _guarded(route))
        if route.method == "GET":
            app.router.add_route("HEAD", ROOT + route.path, _guarded(route))
    described = openapi.describe(ROOT, ROUTES)

    async def describe(request: web.Request) -> web.Response:
        """Return the description. It tells nothing that docs/reference/api.md does not, but it is large."""
        await _let_in(request, "describe", None)
        return web.Response(body=described, content_type="application/json")

    app.router.add_get(f"{ROOT}/openapi.json", describe)


def _guarded(route: Route) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        await _let_in(request, route.name, route.scope)
        answer = await route.handler(request)
        if isinstance(answer, web.StreamResponse):
            return answer
        return web.Response(
            status=route.status, body=answer.model_dump_json().encode("utf-8"), content_type="application/json"
        )

    return handle


async def _let_in(request: web.Request, name: str, scope: Scope | None) -> None:
    """Let in whoever has the right token, before anything of the request is read."""
    request[ROUTE] = f"api.{name}"
    given = request.headers.getall(hdrs.AUTHORIZATION, [])
    if len(given) > 1:
        raise UnauthorizedError("there is more than one Authorization header", presented=False)
    client = client_of(request, request.app[CONFIG].server.trusted_proxies)
    token = await request.app[API_TOKENS].check(given[0] if given else None, client, scope)
    request[API_TOKEN_ID] = token.id
    if token.drop_id is not None:
        request[LIMITED_TO] = token.drop_id
