"""The application: every route behind one gate keeper, on which the drop-in endpoints stand too."""

import logging
import secrets
import traceback
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from dispatcher.config import ServerSettings
from dispatcher.errors import DispatcherError
from dispatcher.web import bodies, openapi, problems
from dispatcher.web.access import IS_KNOWN, Access
from dispatcher.web.api import Api, Metrics, health_routes, metrics_route
from dispatcher.web.guard import connection_of, plain
from dispatcher.web.ports import Engine
from dispatcher.web.routes import Handler, Reply, Route

logger = logging.getLogger("dispatcher.web")

ACCESS: Final = web.AppKey("ACCESS", Access)
"""`await app[ACCESS].reload(server)` takes new hosts and reads the token file again."""


def make_app(
    engine: Engine,
    server: ServerSettings,
    *,
    metrics: Metrics | None = None,
    more_routes: Iterable[Route] = (),
) -> web.Application:
    """
    Make the application of the sidecar: the HTTP API of *engine*, and *more_routes*.

    *metrics* renders `GET /metrics`. The token file is read when the application starts, which
    raises `ConfigError` if that cannot be done.
    """
    routes = Api(engine).routes()
    if metrics is not None:
        routes = (*routes, metrics_route(metrics))
    routes = (*routes, _document_route(routes, tokens=server.token_file is not None))
    return _application((*routes, *more_routes), server)


def make_metrics_app(
    server: ServerSettings, metrics: Metrics, engine: Engine | None = None
) -> web.Application:
    """
    Make the application of the listener that serves the metrics and, of *engine*, its health.

    It asks for no token: what scrapes it is kept apart by the network, and finds it by its
    address rather than by a name that could be listed.
    """
    open_server = msgspec.structs.replace(server, token_file=None)
    health = () if engine is None else health_routes(engine)
    return _application((metrics_route(metrics), *health), open_server, any_address=True)


def _document_route(routes: Sequence[Route], *, tokens: bool) -> Route:
    """Return the route of the OpenAPI document, which tells of itself as well."""

    async def handler(_: web.Request) -> web.Response:
        return web.Response(body=document, content_type=bodies.JSON)

    route = Route(
        method="GET",
        path="/openapi.json",
        handler=handler,
        name="describe",
        summary="Show this document.",
        replies=(Reply(status=200, means="OpenAPI 3.1.", body=dict),),
    )
    document = msgspec.json.encode(openapi.document((*routes, route), tokens=tokens))
    return route


def _application(
    routes: Sequence[Route], server: ServerSettings, *, any_address: bool = False
) -> web.Application:
    open_paths = (route.path for route in routes if route.is_open)
    own = (route.path for route in routes if route.takes_own_tokens)
    access = Access(server, open_paths, own_token_paths=own, any_address=any_address)
    app = web.Application(middlewares=[_gate_keeper(access)])
    app[ACCESS] = access
    for route in routes:
        app.router.add_route(route.method, route.path, route.handler, expect_handler=bodies.expect)

    async def start(_: web.Application) -> None:
        await access.reload(server)

    async def finish(_: web.Request, response: web.StreamResponse) -> None:
        plain(response)

    app.on_startup.append(start)
    app.on_response_prepare.append(finish)
    return app


def _gate_keeper(access: Access) -> Middleware:
    """Make the middleware that every request passes, and every error on its way back."""

    @web.middleware
    async def keep(request: web.Request, handler: Handler) -> web.StreamResponse:
        connection = connection_of(request)
        connection.head_arrived()
        try:
            request[IS_KNOWN] = access.check(
                request, token_wanted=connection.asks_token, peer_uid=connection.peer_uid
            )
            response = await handler(request)
        except DispatcherError as error:
            return problems.refuse(error).reply()
        except problems.Refusal as refusal:
            return refusal.reply()
        except web.HTTPException as error:
            return problems.of_http_exception(error).reply()
        except ConnectionError:
            raise  # the peer left, and there is nobody to answer
        except Exception as error:  # noqa: BLE001 -- the boundary
            # This branch should never run. A bug costs one request its answer and no more.
            return _defect(request, error).reply()
        finally:
            connection.let_go()
        connection.served = True
        return response

    return keep


def _defect(request: web.Request, error: Exception) -> problems.Refusal:
    """Log a bug once, by an id that the caller is told, and without anything the caller sent."""
    instance = secrets.token_hex(8)
    resource = request.match_info.route.resource
    where = "".join(traceback.format_tb(error.__traceback__))
    # Not the error's own text: it may quote a payload.
    logger.error(
        "defect: %s: %s %s: %s\n%s",
        instance,
        request.method,
        resource.canonical if resource is not None else "?",
        type(error).__name__,
        where,
    )
    return problems.defect(instance)
