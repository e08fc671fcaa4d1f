import anyio
import pytest
from msgspec.structs import replace

from dispatcher.config import parse
from dispatcher.core.model import Source
from dispatcher.errors import ConfigError, JournalLocked
from dispatcher.wiring import open_engine, run_engine

CONFIG = """
[journal]
url = "{journal}"

[accounts.fc]
provider = "aliyun-fc"
account_id = "1"
region = "cn-shanghai"
quota = 5
endpoint = "http://127.0.0.1:1"
credentials = {{ source = "static", access_key_id = "AK", access_key_secret_file = "secret" }}

[accounts.queue]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-1"
quota = 5
completion_queue = "http://127.0.0.1:1/123456789012/ends"
credentials = {{ source = "static", access_key_id = "AK", access_key_secret_file = "secret" }}

[accounts.guess]
provider = "aws-lambda"
account_id = "123456789012"
region = "us-east-2"
quota = 5
credentials = {{ source = "static", access_key_id = "AK", access_key_secret_file = "secret" }}
functions = {{ "*" = {{ duration_s = 1 }} }}
"""

pytestmark = pytest.mark.real_time


@pytest.fixture
def settings(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s\n")
    secret.chmod(0o600)
    made = {
        journal: parse(CONFIG.format(journal=journal), base=tmp_path)
        for journal in ("memory:", "sqlite:j.db")
    }
    return lambda journal="memory:": made[journal]


async def test_every_account_gets_what_finds_out_its_ends(settings):
    async with open_engine(settings()) as engine:
        assert {name: set(found) for name, found in engine._trackers.items()} == {
            "fc": {Source.TASK},
            "queue": {Source.DESTINATION},
            "guess": set(),
        }


async def test_what_was_opened_is_closed_when_a_later_edge_fails(settings, monkeypatch):
    async def fail(*_: object, **__: object) -> None:
        raise ConfigError([("accounts.fc.credentials", "none")])

    monkeypatch.setattr("dispatcher.wiring.open_transport", fail)
    for _ in range(2):  # a journal that was left open would still be locked
        with pytest.raises(ConfigError):
            async with open_engine(settings("sqlite:j.db")):
                pass


async def test_a_journal_has_one_owner(settings):
    async with open_engine(settings("sqlite:j.db")):
        with pytest.raises(JournalLocked):
            async with open_engine(settings("sqlite:j.db")):
                pass


async def test_the_key_of_callbacks_is_the_same_by_whatever_link_the_journal_is_found(
    settings, tmp_path
):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "j.db").symlink_to(tmp_path / "elsewhere" / "real.db")
    by_link = settings("sqlite:j.db")
    journal = replace(by_link.journal, url=f"sqlite://{tmp_path}/elsewhere/real.db")
    keys = []
    for each in (by_link, replace(by_link, journal=journal)):
        async with open_engine(each) as engine:
            keys.append(engine.callback_key)
    assert keys[0] == keys[1]
    assert (tmp_path / "elsewhere" / "real.db.callback-key").exists()


async def test_the_body_is_cancelled_when_the_journal_fails(settings):
    async with open_engine(settings()) as engine:
        with pytest.raises(ConnectionError):  # noqa: PT012 -- a context within
            async with run_engine(engine):
                engine.fail(ConnectionError("stands for any"))
                await anyio.sleep(10)


async def test_the_end_of_the_body_drains(settings):
    async with open_engine(settings()) as engine:
        async with run_engine(engine):
            assert engine.not_ready() is None
        assert engine.not_ready() == "draining"
