"""Typed keys of what the application holds, and of what a request is known to be about, for the log and the audit."""

from aiohttp import web

from dropoff_tus.ports.catalog import Catalog, Outbox
from server.answers import OperatorStore
from server.http.body import BodyRate, StreamBody
from server.http.bundle import Bundle
from server.http.client_pseudonyms import ClientPseudonyms
from server.http.metrics import Metrics
from server.outbox.pre_create import PreCreate
from server.settings.config import Config
from server.usecases.api_tokens import ApiTokenGuard
from server.usecases.auth import Auth
from server.usecases.closing import Marks
from server.usecases.dropoffs import Dropoffs
from server.usecases.operating.purging import PurgeJobs
from server.usecases.uploads import Uploads
from server.usecases.wrong_credentials import WrongCredentials

CONFIG: web.AppKey[Config] = web.AppKey("config", Config)
BODY_RATE: web.AppKey[BodyRate] = web.AppKey("body_rate", BodyRate)
BUNDLE: web.AppKey[Bundle] = web.AppKey("bundle", Bundle)
UPLOADS: web.AppKey[Uploads] = web.AppKey("uploads", Uploads)
AUTH: web.AppKey[Auth] = web.AppKey("auth", Auth)
STORE: web.AppKey[OperatorStore] = web.AppKey("store", OperatorStore)
OUTBOX: web.AppKey[Outbox] = web.AppKey("outbox", Outbox)
CATALOG: web.AppKey[Catalog] = web.AppKey("catalog", Catalog)
CLIENT_PSEUDONYMS: web.AppKey[ClientPseudonyms] = web.AppKey("client_pseudonyms", ClientPseudonyms)
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
DROPOFFS: web.AppKey[Dropoffs] = web.AppKey("dropoffs", Dropoffs)
ENDED_DROPS: web.AppKey[Marks] = web.AppKey("ended_drops", Marks)
PURGE_JOBS: web.AppKey[PurgeJobs] = web.AppKey("purge_jobs", PurgeJobs)
WRONG_CREDENTIALS: web.AppKey[WrongCredentials] = web.AppKey("wrong_credentials", WrongCredentials)
API_TOKENS: web.AppKey[ApiTokenGuard] = web.AppKey("api_tokens", ApiTokenGuard)
PRE_CREATE: web.AppKey[PreCreate] = web.AppKey("pre_create", PreCreate)
"""Not there where no site is asked."""

REQUEST_ID: web.RequestKey[str] = web.RequestKey("request_id", str)
ROUTE: web.RequestKey[str] = web.RequestKey("route", str)
METHOD: web.RequestKey[str] = web.RequestKey("method", str)
"""The one that holds, where X-HTTP-Method-Override names another."""
DROP_ID: web.RequestKey[str] = web.RequestKey("drop_id", str)
UPLOAD_ID: web.RequestKey[str] = web.RequestKey("upload_id", str)
BODY: web.RequestKey[StreamBody] = web.RequestKey("body", StreamBody)
OFFSET: web.RequestKey[int] = web.RequestKey("offset", int)
"""The durable offset of the upload after the request."""
API_TOKEN_ID: web.RequestKey[str] = web.RequestKey("token_id", str)
