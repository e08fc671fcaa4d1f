import json
import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core.callback import (
    KEY_BYTES,
    OFFER_EXTRA_BYTES_MAX,
    PLACEHOLDER,
    attempt_of,
    offer,
    token,
    wants_offer,
)

KEY = bytes(range(KEY_BYTES))
ids = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,40}", fullmatch=True)


class TestToken:
    @given(ids, st.integers(1, 999_999_999))
    def test_it_is_good_for_its_attempt_of_its_invocation(self, invocation_id, attempt):
        made = token(KEY, invocation_id, attempt)
        assert attempt_of(KEY, invocation_id, made) == attempt
        assert attempt_of(KEY, invocation_id + "x", made) is None
        assert attempt_of(bytes(KEY_BYTES), invocation_id, made) is None
        assert set(made) <= set(string.ascii_letters + string.digits + "._-")

    @given(ids, st.integers(1, 20), st.integers(1, 20))
    def test_the_attempt_in_it_cannot_be_changed(self, invocation_id, attempt, other):
        version, _, mac = token(KEY, invocation_id, attempt).split(".")
        forged = f"{version}.{other}.{mac}"
        assert attempt_of(KEY, invocation_id, forged) == (attempt if other == attempt else None)

    @given(st.integers(0, 200), st.integers(1, 255))
    def test_any_changed_character_makes_it_worthless(self, place, change):
        made = token(KEY, "iabc", 3)
        place %= len(made)
        changed = chr(ord(made[place]) ^ change)
        forged = made[:place] + changed + made[place + 1 :]
        assert attempt_of(KEY, "iabc", forged) is None

    @given(st.text())
    def test_anything_may_be_presented(self, text):
        assert attempt_of(KEY, "iabc", text) is None
        assert attempt_of(KEY, "iabc", f"c1.1.{text}") is None

    def test_other_ways_to_write_the_attempt_are_refused(self):
        mac = token(KEY, "iabc", 1).rpartition(".")[2]
        for digits in ("01", "1 ", "+1", "\u0661", "1_0", "", "0", "9" * 5000):
            assert attempt_of(KEY, "iabc", f"c1.{digits}.{mac}") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)


def offered(payload: bytes) -> bytes:
    return offer(
        payload,
        url_base="https://relay.example/",
        token=token(KEY, "iabc", 2),
        invocation_id="iabc",
        attempt=2,
    )


class TestOffer:
    def test_a_payload_that_asks_gets_url_and_token(self):
        payload = b'{"n": 1.00000000000000000001, "done": "$dispatcher.completion", "z": [1,  2]}'
        changed = offered(payload)
        assert json.loads(changed)["done"] == {
            "url": "https://relay.example/v1/invocations/iabc/completion",
            "token": token(KEY, "iabc", 2),
            "id": "iabc",
            "attempt": 2,
        }
        # Nothing else was read and written anew.
        assert changed.startswith(b'{"n":1.00000000000000000001,"done":{')
        assert changed.endswith(b',"z":[1,  2]}')

    @given(json_values)
    def test_a_payload_that_does_not_ask_stays_as_it_is(self, value):
        payload = json.dumps(value).encode()
        assert offered(payload) == payload

    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"\xff\xfe",
            b'"$dispatcher.completion"',
            b'["$dispatcher.completion"]',
            b'{"user": {"text": "$dispatcher.completion"}}',
            b'{"text": "please \\"$dispatcher.completion\\""}',
            b'{"$dispatcher.completion": 1}',
            b'{"a": "$dispatcher.completion"',
        ],
    )
    def test_only_a_whole_top_level_value_asks(self, payload):
        assert offered(payload) == payload

    @given(st.dictionaries(st.text(max_size=5), json_values, max_size=4), st.text(max_size=5))
    def test_all_other_members_keep_their_values_and_places(self, members, name):
        asking = members | {name: PLACEHOLDER}
        payload = json.dumps(asking).encode()
        assert wants_offer(payload)
        changed = json.loads(offered(payload))
        assert list(changed) == list(asking)
        assert {**changed, name: None} == {**asking, name: None}
        assert len(offered(payload)) <= len(payload) + OFFER_EXTRA_BYTES_MAX

    def test_the_longest_ids_stay_within_what_may_be_added(self):
        invocation_id = "i" * 128
        longest = offer(
            msgspec.json.encode({"a": PLACEHOLDER}),
            url_base="",
            token=token(KEY, invocation_id, 999_999_999),
            invocation_id=invocation_id,
            attempt=999_999_999,
        )
        assert len(longest) < OFFER_EXTRA_BYTES_MAX
