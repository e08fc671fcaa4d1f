import pytest

from dispatcher import errors
from dispatcher.cli.codes import Code, code_of


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError([("a.b", "wrong")]), 78),
        (errors.JournalLocked("x"), 75),
        (errors.JournalDamaged("x"), 74),
        (errors.JournalError("x"), 74),
        (OSError("x"), 74),
        (ConnectionRefusedError("x"), 75),
        (TimeoutError("x"), 75),
        (errors.QueueFull("x"), 75),
        (errors.Draining("x"), 75),
        (errors.DiskFull("x"), 75),
        (errors.Invalid("x"), 64),
        (errors.NotFound("x"), 1),
        (errors.NotPossible("x"), 1),
    ],
)
def test_each_error_has_its_code(error, code):
    assert code_of(error) == code
    assert isinstance(code_of(error), Code)
