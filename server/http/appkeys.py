"""Typed keys of what the application holds, and of what a request is known to be about, for the log and the audit."""

from aiohttp import web

from dropoff_tus.ports.catalog import Catalog, Outbox
from server.answers import OperatorStore
from server.http.bundle import Bundle
from server.http.health import Metrics
from server.outbox.remote_check import RemoteCheck
from server.settings.config import Config
from server.usecases.auth import Auth
from server.usecases.closing import Marks
from server.usecases.dropoffs import Dropoffs
from server.usecases.origins import Origins
from server.usecases.purges import Purges
from server.usecases.refusals import Refusals
from server.usecases.tokens import TokenGuard
from server.usecases.uploads import Uploads

CONFIG: web.AppKey[Config] = web.AppKey("config", Config)
BUNDLE: web.AppKey[Bundle] = web.AppKey("bundle", Bundle)
UPLOADS: web.AppKey[Uploads] = web.AppKey("uploads", Uploads)
AUTH: web.AppKey[Auth] = web.AppKey("auth", Auth)
STORE: web.AppKey[OperatorStore] = web.AppKey("store", OperatorStore)
OUTBOX: web.AppKey[Outbox] = web.AppKey("outbox", Outbox)
CATALOG: web.AppKey[Catalog] = web.AppKey("catalog", Catalog)
ORIGINS: web.AppKey[Origins] = web.AppKey("origins", Origins)
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
DROPOFFS: web.AppKey[Dropoffs] = web.AppKey("dropoffs", Dropoffs)
ENDED_DROPS: web.AppKey[Marks] = web.AppKey("ended_drops", Marks)
PURGES: web.AppKey[Purges] = web.AppKey("purges", Purges)
REFUSALS: web.AppKey[Refusals] = web.AppKey("refusals", Refusals)
TOKENS: web.AppKey[TokenGuard] = web.AppKey("tokens", TokenGuard)
REMOTE_CHECK: web.AppKey[RemoteCheck] = web.AppKey("remote_check", RemoteCheck)
"""Not there where no site is asked."""

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
ROUTE: web.RequestKey[str] = web.RequestKey("route", str)
METHOD: web.RequestKey[str] = web.RequestKey("method", str)
"""The one that holds, where X-HTTP-Method-Override names another."""
DROP_ID: web.RequestKey[str] = web.RequestKey("drop_id", str)
UPLOAD_ID: web.RequestKey[str] = web.RequestKey("upload_id", str)
TOKEN_ID: web.RequestKey[str] = web.RequestKey("token_id", str)
