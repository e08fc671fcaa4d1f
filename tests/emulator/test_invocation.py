import pytest

from dispatcher.emulator.invocation import NO_DIRECTIVE, Directive, directive_of


def test_a_payload_can_say_how_its_run_goes():
    directive = directive_of(b'{"n": 1, "emulate": {"duration_s": 1.5, "fail_attempts": 2}}')
    assert directive == Directive(duration_s=1.5, fail_attempts=2)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b'{"emulate": null}',
        b'{"emulate": 3}',
        b'{"emulate": {"duration_s": "x"}}',
        b'["emulate"]',
        b'{"emulate"',
        b"\xff",
    ],
)
def test_other_payloads_say_nothing(payload):
    assert directive_of(payload) == NO_DIRECTIVE


def test_a_directive_may_name_the_result():
    for text in ('{"a": [1, 2]}', "3", '"x"', "null"):
        directive = directive_of(b'{"emulate": {"result": %s, "duration_s": 2}}' % text.encode())
        assert (bytes(directive.result), directive.duration_s) == (text.encode(), 2)
