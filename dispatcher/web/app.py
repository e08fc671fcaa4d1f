"""The application: every route behind one gate keeper, on which the drop-in endpoints stand too."""

import logging
import secrets
import traceback
from collections.abc import Iterable, Sequence
from http import HTTPStatus

import msgspec
from aiohttp import hdrs

from dispatcher.config import ServerSettings
from dispatcher.errors import DispatcherError
from dispatcher.web import bodies, openapi, problems
from dispatcher.web.access import Access
from dispatcher.web.api import Api, Metrics, health_routes, metrics_route
from dispatcher.web.ports import Engine
from dispatcher.web.request import Request
from dispatcher.web.response import JSON, Response
from dispatcher.web.router import Router
from dispatcher.web.routes import Reply, Route

logger = logging.getLogger("dispatcher.web")


class App:
    """Answers every request: by a route, or with a problem."""

    def __init__(
        self, routes: Iterable[Route], server: ServerSettings, *, any_address: bool = False
    ) -> None:
        """*any_address*: also who asks for it by any IP address is answered."""
        self.access = Access(server, any_address=any_address)
        """`await app.access.reload(server)` takes new hosts and reads the token file again."""
        self._router = Router(routes)
        self._server = server

    @property
    def routes(self) -> tuple[Route, ...]:
        """Return all that is served."""
        return self._router.routes

    async def start(self) -> None:
        """Read the token file. Raises `ConfigError` if that cannot be done."""
        await self.access.reload(self._server)

    async def answer(self, request: Request) -> Response:
        """Let every request pass the gate keeper, and every error on its way back."""
        connection = request.connection
        try:
            found = self._router.find(request.method, request.url.raw_path)
            request.route, request.parameters = found.route, found.parameters
            request.is_known = self.access.check(
                request, token_wanted=connection.asks_token, peer_uid=connection.peer_uid
            )
            if found.route is None:
                return _nothing_there(found.allowed).reply()
            if hdrs.EXPECT in request.headers:
                bodies.check_expectation(request)
            response = await found.route.handler(request)
        except DispatcherError as error:
            return problems.refuse(error).reply()
        except problems.Refusal as refusal:
            return refusal.reply()
        except ConnectionError:
            raise  # the peer left, and there is nobody to answer
        except Exception as error:  # noqa: BLE001 -- the boundary
            # This branch should never run. A bug costs one request its answer and no more.
            return _defect(request, error).reply()
        connection.served = True
        return response


def make_app(
    engine: Engine,
    server: ServerSettings,
    *,
    metrics: Metrics | None = None,
    more_routes: Iterable[Route] = (),
) -> App:
    """
    Make the application of the sidecar: the HTTP API of *engine*, and *more_routes*.

    *metrics* renders `GET /metrics`.
    """
    routes = Api(engine).routes()
    if metrics is not None:
        routes = (*routes, metrics_route(metrics))
    routes = (*routes, _document_route(routes, tokens=server.token_file is not None))
    return App((*routes, *more_routes), server)


def make_metrics_app(server: ServerSettings, metrics: Metrics, engine: Engine | None = None) -> App:
    """
    Make the application of the listener that serves the metrics and, of *engine*, its health.

    It asks for no token: what scrapes it is kept apart by the network, and finds it by its
    address rather than by a name that could be listed.
    """
    open_server = msgspec.structs.replace(server, token_file=None)
    health = () if engine is None else health_routes(engine)
    return App((metrics_route(metrics), *health), open_server, any_address=True)


def _document_route(routes: Sequence[Route], *, tokens: bool) -> Route:
    """Return the route of the OpenAPI document, which tells of itself as well."""

    async def handler(_: Request) -> Response:
        return Response(body=document, content_type=JSON)

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


def _nothing_there(allowed: Sequence[str]) -> problems.Refusal:
    if not allowed:
        return problems.refusal(404, HTTPStatus.NOT_FOUND.description)
    headers = {"Allow": ", ".join(allowed)}
    return problems.refusal(405, HTTPStatus.METHOD_NOT_ALLOWED.description, headers=headers)


def _defect(request: Request, error: Exception) -> problems.Refusal:
    """Log a bug once, by an id that the caller is told, and without anything the caller sent."""
    instance = secrets.token_hex(8)
    where = "".join(traceback.format_tb(error.__traceback__))
    # Not the error's own text: it may quote a payload.
    logger.error(
        "defect: %s: %s %s: %s\n%s",
        instance,
        request.method,
        request.route.path if request.route is not None else "?",
        type(error).__name__,
        where,
    )
    return problems.defect(instance)
