"""The emulator as an HTTP server: one listener for Lambda, SQS and FC, and its own controls."""

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import Final, Protocol, Self

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from dispatcher.emulator.access import Access, Visitor
from dispatcher.emulator.cloud import Cloud
from dispatcher.emulator.control_api import ControlApi
from dispatcher.emulator.driver import Driver
from dispatcher.emulator.faults import Faults, Subject
from dispatcher.emulator.fc_api import FcApi
from dispatcher.emulator.lambda_api import LambdaApi
from dispatcher.emulator.providers import MIB
from dispatcher.emulator.settings import Fault, Settings
from dispatcher.emulator.sqs_api import SqsApi
from dispatcher.emulator.statistics import AccountStatistics, cloud_statistics
from dispatcher.emulator.wire import Call, Reply, json_reply

BODY_MAX: Final = 40 * MIB
"""More than any API takes, so that each can refuse what is too large in its own words."""

_HANG_S: Final = 3600.0
_SLOW_S: Final = 1.0
_HTML: Final = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n"
)
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing sends RST instead of FIN."""


class Api(Protocol):
    """One provider's wire format."""

    access: Access

    def owns(self, call: Call) -> bool:
        """Return whether the request is for this API."""

    def subject(self, call: Call, visitor: Visitor) -> Subject:
        """Return what the request is about, for the fault rules."""

    async def handle(self, call: Call, visitor: Visitor) -> Reply:
        """Answer the request."""

    def fault(self, rule: Fault, call: Call) -> Reply:
        """Return the error that a rule asks for, in the shape of the API."""


class Emulator:
    """
    A local cloud on a loopback port.

    `async with Emulator(settings) as emulator:` listens at `emulator.url`. Without settings
    there is one Lambda and one FC account, where every function exists. *wall* gives the Unix
    time by which signatures are judged.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.settings = Settings() if settings is None else settings
        self.url = ""
        self._host = host
        self._port = port
        self._wall = wall
        self._driver: Driver | None = None
        self._runner: web.ServerRunner | None = None

    async def __aenter__(self) -> Self:
        driver = self._driver = Driver(self.settings, self._wall)
        self.faults = Faults(self.settings.faults, driver.rng)
        self._control = ControlApi(driver, self.faults)
        self._apis: tuple[Api, ...] = (LambdaApi(driver), FcApi(driver), SqsApi(driver))
        server = web.Server(
            self._serve,
            request_factory=_make_request,
            # A caller who hangs up is noticed while its function runs.
            handler_cancellation=True,
            access_log=None,
            # Bodies are judged, and their signatures proved, as they came.
            auto_decompress=False,
            max_field_size=65536,
            max_line_size=65536,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port, backlog=4096).start()
        except OSError:
            await self.__aexit__()
            raise
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None, self
        self.driver.close()
        await self._runner.cleanup()

    @property
    def driver(self) -> Driver:
        """What drives the cloud; only while the emulator runs."""
        assert self._driver is not None, "the emulator has not been started"
        return self._driver

    @property
    def cloud(self) -> Cloud:
        """The cloud itself; only while the emulator runs."""
        return self.driver.cloud

    def statistics(self) -> dict[str, AccountStatistics]:
        """Return what was counted, by account."""
        self.driver.pump()
        return cloud_statistics(self.cloud, self.driver.now())

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect", "").lower() == "100-continue":
            assert request.transport is not None, request
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        call = Call(request.method, request.raw_path, request.headers, await request.read())
        if self._control.owns(call):
            return _response(self._control.handle(call))
        for api in self._apis:
            if api.owns(call):
                return await self._answer(api, call, request)
        return _response(json_reply(404, {"message": f"nothing is emulated at {call.path}"}))

    async def _answer(self, api: Api, call: Call, request: web.BaseRequest) -> web.StreamResponse:
        visitor = api.access.visitor(call)
        rule = self.faults.hit(api.subject(call, visitor)) if self.faults.rules else None
        if rule is None:
            return _response(await api.handle(call, visitor))
        reply: Reply | None = None
        match rule.kind:
            case "hang":
                await asyncio.sleep(_HANG_S if rule.delay_s is None else rule.delay_s)
            case "reset_before":
                pass
            case "reset_after":
                await api.handle(call, visitor)
            case "slow":
                reply = await api.handle(call, visitor)
                await asyncio.sleep(_SLOW_S if rule.delay_s is None else rule.delay_s)
            case "html":
                reply = Reply(rule.status or 502, _HTML, {"Content-Type": "text/html"})
            case "empty":
                reply = Reply(rule.status or 500)
            case "error" | "forbidden" | "throttle":
                reply = api.fault(rule, call)
        return _reset(request) if reply is None else _response(reply)


async def serve(
    settings: Settings, host: str, port: int, ready: Callable[[str], None] | None = None
) -> None:
    """
    Run an emulator until cancelled. *ready* is called with its URL once it listens.

    Raises `OSError` if it cannot listen there.
    """
    async with Emulator(settings, host=host, port=port) as emulator:
        if ready is not None:
            ready(emulator.url)
        await asyncio.get_running_loop().create_future()


def _make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> web.BaseRequest:
    return web.BaseRequest(
        message,
        payload,
        protocol,
        writer,
        task,
        asyncio.get_running_loop(),
        client_max_size=BODY_MAX,
    )


def _response(reply: Reply) -> web.Response:
    return web.Response(status=reply.status, body=reply.body, headers=reply.headers)


def _reset(request: web.BaseRequest) -> web.Response:
    """Reset the connection; what is returned goes nowhere."""
    transport = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        transport.abort()
    return web.Response(status=500)
