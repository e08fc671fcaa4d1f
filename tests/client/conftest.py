"""A sidecar in front of an engine that sends nothing, and a client of it."""

from collections.abc import AsyncIterator

import pytest

from dispatcher.client import Client
from dispatcher.config import ServerSettings
from dispatcher.web import Listener, make_app
from tests.web.fakes import FakeEngine


@pytest.fixture
async def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
async def listener(engine: FakeEngine) -> AsyncIterator[Listener]:
    async with Listener(make_app(engine, ServerSettings()), ["127.0.0.1:0"]) as listener:
        yield listener


@pytest.fixture
async def client(listener: Listener) -> AsyncIterator[Client]:
    async with Client(f"http://{listener.addresses[0]}") as client:
        yield client
