"""The OpenAPI 3.1 document, made of the routes and the structs themselves: it cannot drift."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from dispatcher.version import __version__
from dispatcher.web import problems, wire
from dispatcher.web.routes import Route

Json = dict[str, Any]

_ANY_REQUEST: Final = (400, 403, 421, 500)
"""Problems of any request: it is no HTTP, another site sent it, the host is not served, a defect."""
_PATH_PARAMETERS: Final[Mapping[str, Any]] = {
    "id": Annotated[
        str,
        Meta(pattern="^[A-Za-z_][A-Za-z0-9_-]{0,127}$", description="Id of an invocation."),
    ],
    "account": wire.AccountName,
    "function": Annotated[
        str,
        Meta(pattern="^[A-Za-z0-9_$.-]{1,128}$", description="Name of a function of the account."),
    ],
}
_ERROR_HEADERS: Final[Mapping[int, str]] = {
    401: "WWW-Authenticate",
    429: "Retry-After",
    503: "Retry-After",
}


def document(routes: Sequence[Route], *, tokens: bool) -> Json:
    """Describe *routes*; *tokens*: a bearer token is asked for."""
    schemas = _Schemas(routes)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(
            route, schemas, tokens=tokens
        )
    statuses = {status for route in routes for status in _problems(route, tokens=tokens)}
    components: Json = {
        "schemas": schemas.components,
        "responses": {
            f"Problem{status}": _problem_response(status, schemas) for status in sorted(statuses)
        },
    }
    described: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "Dispatcher",
            "version": __version__,
            "description": "Takes invocations of serverless functions, keeps them safe, and sends "
            "them when the quota of the cloud account has room.",
        },
        "paths": paths,
        "components": components,
    }
    if tokens:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"token": []}]
    return described


class _Schemas:
    """The JSON Schemas of all types that travel."""

    def __init__(self, routes: Sequence[Route]) -> None:
        kinds: list[Any] = [
            problems.Problem,
            wire.RefusedLine,
            *_PATH_PARAMETERS.values(),
            *(kind for route in routes for kind in _kinds(route)),
        ]
        schemas, components = msgspec.json.schema_components(
            kinds, ref_template="#/components/schemas/{name}"
        )
        self._of = list(zip(kinds, schemas, strict=True))
        self.components: dict[str, Json] = components
        self._parameters = {
            route.query: self.components[route.query.__name__] for route in routes if route.query
        }
        for query in self._parameters:
            self.components.pop(query.__name__, None)  # they are spelt out where they belong
        # What no type can say: fields that exclude each other.
        self.components["NewInvocation"] |= _either("payload")
        self.components["NewCompletion"] |= _either("result")
        self.components["NewCompletion"] |= {
            "if": {"properties": {"succeeded": {"const": True}}},
            "then": {"properties": {"error": {"type": "null"}}},
        }

    def of(self, kind: Any) -> Json:
        """Return the schema of a type, which may be a reference."""
        return next(schema for known, schema in self._of if known is kind)

    def parameters(self, query: type[msgspec.Struct]) -> list[Json]:
        """Spell out a struct of query parameters."""
        schema = self._parameters[query]
        return [
            _parameter("query", name, field, required=name in schema["required"])
            for name, field in schema["properties"].items()
        ]


def _either(field: str) -> Json:
    """Let bytes be given as JSON or as base64."""
    return {
        "not": {
            "required": [field, f"{field}_base64"],
            "properties": {f"{field}_base64": {"type": "string"}},
        }
    }


def _kinds(route: Route) -> list[Any]:
    kinds = [*route.headers.values(), *route.bodies.values()]
    kinds += [reply.body for reply in route.replies if reply.body is not None]
    return kinds if route.query is None else [*kinds, route.query]


def _operation(route: Route, schemas: _Schemas, *, tokens: bool) -> Json:
    parameters = [
        _parameter("path", name, schemas.of(_PATH_PARAMETERS[name]), required=True)
        for name in re.findall(r"{(\w+)}", route.path)
    ]
    if route.query is not None:
        parameters += schemas.parameters(route.query)
    parameters += [
        _parameter("header", name, schemas.of(kind), required=False)
        for name, kind in route.headers.items()
    ]
    operation: Json = {
        "operationId": route.name,
        "summary": route.summary,
        "responses": {
            **{str(reply.status): _response(reply, schemas) for reply in route.replies},
            **{
                str(status): {"$ref": f"#/components/responses/Problem{status}"}
                for status in _problems(route, tokens=tokens)
            },
        },
    }
    if parameters:
        operation["parameters"] = parameters
    if route.bodies:
        operation["requestBody"] = {
            "required": True,
            "content": {
                media: {"schema": schemas.of(kind)} for media, kind in route.bodies.items()
            },
        }
    if tokens and route.is_open:
        operation["security"] = []
    return operation


def _problems(route: Route, *, tokens: bool) -> list[int]:
    asked = (401,) if tokens and not route.is_open else ()
    return sorted({*_ANY_REQUEST, *asked, *route.problems})


def _response(reply: Any, schemas: _Schemas) -> Json:
    response: Json = {"description": reply.means}
    if reply.body is not None:
        response["content"] = {reply.media: {"schema": schemas.of(reply.body)}}
    if reply.headers:
        response["headers"] = {
            name: {"description": means, "required": True, "schema": {"type": "string"}}
            for name, means in reply.headers.items()
        }
    return response


def _problem_response(status: int, schemas: _Schemas) -> Json:
    response: Json = {
        "description": problems.title(status),
        "content": {problems.MEDIA_TYPE: {"schema": schemas.of(problems.Problem)}},
    }
    if (header := _ERROR_HEADERS.get(status)) is not None:
        response["headers"] = {header: {"schema": {"type": "string"}}}
    return response


def _parameter(place: str, name: str, schema: Json, *, required: bool) -> Json:
    schema = dict(schema)
    parameter: Json = {"name": name, "in": place, "required": required}
    if "description" in schema:
        parameter["description"] = schema.pop("description")
    return {**parameter, "schema": schema}
