"""Addresses that open, sockets that are replaced safely, and the end in order."""

import asyncio
import errno
import socket
import stat

import pytest

from dispatcher.config import ServerSettings
from dispatcher.web import Limits, Listener, make_app
from tests.web.fakes import FakeEngine
from tests.web.test_guard import JOB, POST
from tests.web.wires import GET, Site, serving


def listener(*listen: str, engine: FakeEngine | None = None) -> Listener:
    return Listener(make_app(engine or FakeEngine(), ServerSettings()), listen, Limits())


async def test_port_0_is_any_and_the_address_says_which():
    async with listener("127.0.0.1:0", "[::1]:0") as open_listener:
        first, second = open_listener.addresses
        assert first.startswith("127.0.0.1:")
        assert second.startswith("[::1]:")
        assert not first.endswith(":0")
        site = Site(open_listener)
        assert await (await site.wire()).status_of(GET) == 200
        await site.close()


async def test_a_port_that_is_taken_opens_nothing():
    async with listener("127.0.0.1:0") as first:
        second = listener("127.0.0.1:0", first.addresses[0])
        with pytest.raises(OSError, match="in use"):
            await second.open()
        again = listener("127.0.0.1:0")
        await again.open()
        await again.aclose()


async def test_a_unix_socket_is_for_owner_and_group_and_goes_with_the_listener(socket_dir):
    path = socket_dir / "dispatcher.sock"
    async with serving(listen=f"unix:{path}") as site:
        mode = path.stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o660
        assert [one.name for one in socket_dir.iterdir()] == ["dispatcher.sock"]
        assert await (await site.wire()).status_of(GET) == 200
    assert list(socket_dir.iterdir()) == []


async def test_the_socket_of_a_dead_process_is_replaced(socket_dir):
    path = socket_dir / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    async with serving(listen=f"unix:{path}") as site:
        assert await (await site.wire()).status_of(GET) == 200


async def test_the_socket_of_a_living_process_is_left_alone(socket_dir):
    path = socket_dir / "s"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        before = path.stat().st_ino
        with pytest.raises(OSError, match="another process") as caught:
            await listener(f"unix:{path}").open()
        assert caught.value.errno == errno.EADDRINUSE
        assert path.stat().st_ino == before


@pytest.mark.parametrize("make", ["file", "folder", "link"])
async def test_what_is_no_socket_is_left_alone(socket_dir, make):
    path = socket_dir / "s"
    if make == "file":
        path.write_text("precious")
    elif make == "folder":
        path.mkdir()
    else:
        (socket_dir / "target").write_text("precious")
        path.symlink_to("target")
    with pytest.raises(FileExistsError, match="not a socket"):
        await listener(f"unix:{path}").open()
    assert path.exists()
    assert len(list(socket_dir.iterdir())) == (2 if make == "link" else 1)


async def test_a_folder_that_is_not_there_is_an_error_with_its_name(socket_dir):
    with pytest.raises(FileNotFoundError):
        await listener(f"unix:{socket_dir}/none/s").open()


async def test_a_socket_that_another_has_put_in_its_place_stays(socket_dir):
    path = socket_dir / "s"
    first = listener(f"unix:{path}")
    await first.open()
    path.unlink()
    second = listener(f"unix:{path}")
    await second.open()
    await first.aclose()
    site = Site(second)
    assert await (await site.wire()).status_of(GET) == 200
    await site.close()
    await second.aclose()
    assert not path.exists()


# -- The end --------------------------------------------------------------------------------------


async def test_requests_in_flight_are_answered_before_the_end():
    engine = FakeEngine()
    engine.journal_writes.clear()
    open_listener = listener("127.0.0.1:0", engine=engine)
    await open_listener.open()
    site = Site(open_listener)
    busy, idle = await site.wire(), await site.wire()
    assert await idle.status_of(GET) == 200
    busy.say(POST % len(JOB) + JOB)
    await asyncio.sleep(1)
    closing = asyncio.ensure_future(open_listener.aclose(drain_max_s=25))
    assert await idle.closed() == b""
    with pytest.raises(ConnectionRefusedError):
        await site.wire()
    await asyncio.sleep(5)
    assert not closing.done()
    engine.journal_writes.set()
    assert (await busy.answer())[0] == 202
    await closing
    await site.close()


async def test_the_end_does_not_wait_for_ever():
    engine = FakeEngine()
    engine.journal_writes.clear()
    open_listener = listener("127.0.0.1:0", engine=engine)
    await open_listener.open()
    site = Site(open_listener)
    busy = await site.wire()
    busy.say(POST % len(JOB) + JOB)
    await asyncio.sleep(1)
    begun = asyncio.get_running_loop().time()
    await open_listener.aclose(drain_max_s=5)
    assert 5 <= asyncio.get_running_loop().time() - begun <= 5 + 3
    assert await busy.closed() == b""
    await site.close()


async def test_nobody_in_flight_means_no_wait():
    open_listener = listener("127.0.0.1:0")
    await open_listener.open()
    site = Site(open_listener)
    idle, silent = await site.wire(), await site.wire()
    assert await idle.status_of(GET) == 200
    silent.say(GET[:9])
    begun = asyncio.get_running_loop().time()
    await open_listener.aclose(drain_max_s=25)
    assert asyncio.get_running_loop().time() - begun < 0.1
    await site.close()


async def test_closing_twice_is_harmless():
    open_listener = listener("127.0.0.1:0")
    await open_listener.open()
    await open_listener.aclose()
    await open_listener.aclose()


# -- The other event loop -------------------------------------------------------------------------


@pytest.mark.real_time
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_it_is_the_same_on_uvloop(socket_dir, kind):
    """Its transports and sockets are of other classes; what the guard asks of them must hold."""
    uvloop = pytest.importorskip("uvloop")
    listen = f"unix:{socket_dir}/s" if kind == "unix" else "127.0.0.1:0"

    async def talk() -> None:
        async with serving(listen=listen, head_max_s=0.7, connections_max=2) as site:
            honest = await site.wire()
            assert await honest.status_of(GET) == 200
            assert await honest.status_of(POST % len(JOB) + JOB) == 202
            silent = await site.wire()
            begun = asyncio.get_running_loop().time()
            assert await silent.closed() == b""
            assert asyncio.get_running_loop().time() - begun < 60
            crowd = [await site.wire() for _ in range(4)]
            for wire in crowd[:-2]:
                assert await wire.closed() == b""
            assert await honest.status_of(GET) == 200

    uvloop.run(talk())
    assert list(socket_dir.iterdir()) == []
