"""The HTTP face on a port of its own, in front of an engine of the tests."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from dispatcher.config import ServerSettings
from dispatcher.web import Listener, make_app
from tests.web.fakes import FakeEngine


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def face(engine: FakeEngine) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that knows where the face is."""
    app = make_app(engine, ServerSettings(), metrics=metrics)
    async with (
        Listener(app, ["127.0.0.1:0"]) as listener,
        aiohttp.ClientSession(f"http://{listener.addresses[0]}") as session,
    ):
        yield session


async def metrics(accept: str) -> tuple[bytes, str]:
    return f"# for {accept}\n".encode(), "text/plain; version=0.0.4; charset=utf-8"
