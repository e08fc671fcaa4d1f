import pytest

from dispatcher.emulator.providers import PROVIDERS, Shortage


@pytest.mark.parametrize("name", ["aws-lambda", "aliyun-fc"])
def test_a_provider_has_a_word_for_every_shortage_and_a_wait_for_every_retry(name):
    rules = PROVIDERS[name]
    assert rules.name == name
    assert set(rules.codes) == set(Shortage)
    assert len(rules.retry_waits_s) == rules.retry_attempts_max
    assert rules.payload_async_max < rules.payload_sync_max
