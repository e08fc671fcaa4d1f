import pytest

from dispatcher import failpoints


def test_nothing_happens_unless_a_test_wants_it():
    assert failpoints.hook is None
    failpoints.reach("anywhere")


def test_a_test_sees_the_points_and_can_fail_there(monkeypatch):
    seen: list[str] = []

    def hook(name: str) -> None:
        seen.append(name)
        if name == "second":
            raise RuntimeError(name)

    monkeypatch.setattr(failpoints, "hook", hook)
    failpoints.reach("first")
    with pytest.raises(RuntimeError, match="second"):
        failpoints.reach("second")
    assert seen == ["first", "second"]
