"""The API's description, OpenAPI 3.1, made from the table of routes and the models that check requests and answers.

Source: https://spec.openapis.org/oas/v3.1.0.
"""

import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from server.answers import JsonAnswer
from server.http.api.requests import DropId, UploadId
from server.http.api.route import Route
from server.http.problems import CONTENT_TYPE

_REF = "#/components/schemas/{model}"
_JSON = "application/json"
_ALWAYS = (401, 403, 429, 503)
_OF_BODIES = (400, 413, 415, 422)
_PARAMETER = re.compile(r"\{(\w+)\}")


class Mistake(JsonAnswer):
    """One thing that is wrong."""

    at: str = Field(description="The member or parameter.")
    detail: str


class Problem(BaseModel):
    """Why a request was refused (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable; for programs.", pattern=r"^ERR_[A-Z_]+$")
    errors: list[Mistake] = Field(default_factory=list)


class _Ids(BaseModel):
    """Parts of paths."""

    drop_id: DropId
    upload_id: UploadId


def describe(root: str, routes: Sequence[Route]) -> bytes:
    """Return the description as JSON."""
    models: dict[type[BaseModel], JsonSchemaMode] = {Problem: "validation"}
    for route in routes:
        models |= {model: "serialization" for model in (route.answer,) if model is not None}
        models |= {model: "validation" for model in (route.body, route.query) if model is not None}
    names, schemas = models_json_schema(list(models.items()), ref_template=_REF)
    queries = {model.__name__ for route in routes if (model := route.query) is not None}
    ids = _Ids.model_json_schema()["properties"]
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        described = _operation(route, ids, {model: names[model, mode] for model, mode in models.items()}, schemas)
        paths.setdefault(root + route.path, {})[route.method.lower()] = described
    document = {
        "openapi": "3.1.0",
        "info": {"title": "dropoff-tus", "version": "1", "description": "For operators; see docs/reference/api.md."},
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in schemas["$defs"].items() if name not in queries},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
    return json.dumps(document, indent=1).encode("ascii")


def _operation(
    route: Route, ids: dict[str, Any], refs: dict[type[BaseModel], Any], schemas: dict[str, Any]
) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": ids[name]} for name in _PARAMETER.findall(route.path)
    ]
    if route.query is not None:
        parameters += [
            _parameter(name, schema) for name, schema in schemas["$defs"][route.query.__name__]["properties"].items()
        ]
    if route.ranges:
        # No pattern: a value that is no range of bytes is ignored, as RFC 9110 wants it, and not refused.
        told = "One range, such as bytes=0-1023; anything else is answered with the whole."
        schema = {"type": "string", "examples": ["bytes=0-1023", "bytes=-5"]}
        parameters.append({"name": "Range", "in": "header", "required": False, "description": told, "schema": schema})
    good: dict[str, Any] = {"description": route.summary}
    bytes_content = {route.content: {"schema": {"type": "string", "format": "binary"}}}
    good["content"] = {_JSON: {"schema": refs[route.answer]}} if route.answer is not None else bytes_content
    responses = {str(route.status): good}
    if route.later:
        seconds = {"description": "Seconds until it is worth asking again", "schema": {"type": "integer"}}
        going_on = {"description": "It goes on; ask again, the same way", "headers": {"Retry-After": seconds}}
        responses["202"] = {**good, **going_on}
    if route.ranges:
        responses["206"] = {"description": "The range", "content": bytes_content}
    refusals = {*_ALWAYS, *route.refusals, *(_OF_BODIES if route.body is not None else ())}
    for status in sorted(refusals):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {CONTENT_TYPE: {"schema": refs[Problem]}},
        }
    described: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "description": f"Needs a token with the scope `{route.scope.value}`.",
        "parameters": parameters,
        "responses": responses,
    }
    if route.body is not None:
        described["requestBody"] = {
            "required": route.body_needed,
            "content": {_JSON: {"schema": refs[route.body]}},
        }
    return described


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """Return a query parameter; one that may be null in the model may be left out."""
    kinds = [kind for kind in schema.get("anyOf", []) if kind.get("type") != "null"]
    alone = {key: value for key, value in schema.items() if key not in {"anyOf", "default", "description", "title"}}
    return {
        "name": name,
        "in": "query",
        "required": False,
        "description": schema.get("description", ""),
        "schema": kinds[0] if kinds else alone,
    }
