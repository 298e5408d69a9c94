"""Typed keys of what the application holds."""

from aiohttp import web

from dropoff_tus.ports import Catalog, Store
from server.auth import Auth
from server.config import Config
from server.health import Metrics
from server.uploads import Uploads

CONFIG: web.AppKey[Config] = web.AppKey("config", Config)
UPLOADS: web.AppKey[Uploads] = web.AppKey("uploads", Uploads)
AUTH: web.AppKey[Auth] = web.AppKey("auth", Auth)
STORE: web.AppKey[Store] = web.AppKey("store", Store)
CATALOG: web.AppKey[Catalog] = web.AppKey("catalog", Catalog)
METRICS: web.AppKey[Metrics] = web.AppKey("metrics", Metrics)
