import aiohttp
import pytest

from dispatcher.demo.world import WorldError, _running, make_world

pytestmark = pytest.mark.real_time


async def test_a_process_that_does_not_start_is_quoted(tmp_path):
    with pytest.raises(WorldError, match=r"(did not start|ended too early)(.*\n)*.*no-such-file"):
        async with _running(tmp_path / "cloud.log", ("emulate", "-c", "no-such-file"), "never"):
            pass


async def test_nothing_is_left_of_a_world():
    async with make_world() as world, world.sidecar() as url:
        assert url.startswith("http://127.0.0.1:")
        async with aiohttp.ClientSession(url) as session, session.get("/readyz") as reply:
            assert reply.status == 200, "what comes now is accepted"
        folder = world.folder
        assert folder.exists()
    assert not folder.exists()
