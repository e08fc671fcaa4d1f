import random

from dispatcher.emulator import tasks
from dispatcher.emulator.account import AccountState
from dispatcher.emulator.cloud import Cloud
from dispatcher.emulator.invocation import Invocation, Status
from dispatcher.emulator.settings import Account, Settings
from dispatcher.emulator.tasks import Filter


class World:
    """A cloud that accepts tasks and, its quota being zero, runs none until it is told to."""

    def __init__(self, tasks_max: int = 100) -> None:
        account = Account(provider="aliyun-fc", account_id="1", region="here", quota=0)
        self.cloud = Cloud(Settings(accounts={"a": account}, tasks_max=tasks_max), random.Random(1))
        self.account: AccountState = self.cloud.accounts["a"]
        self.index = self.account.tasks

    def add(self, task_id: str, now: float = 0, function: str = "f", size: int = 0) -> Invocation:
        state = self.cloud.find(self.account, function)
        return self.cloud.invoke(
            state, self.account, now, payload=bytes(size), asynchronous=True, task_id=task_id
        )

    def ids(self, now: float = 0, function: str = "f", **wanted) -> list[str | None]:
        found, _ = self.index.page(function, Filter(**wanted), now)
        return [task.task_id for task in found]


def test_tasks_are_found_by_function_and_id():
    world = World()
    task = world.add("t")
    assert world.index.find("f", "t", 0) is task
    assert world.index.find("g", "t", 0) is None


def test_a_page_goes_on_after_the_last_one_even_if_that_has_moved():
    world = World()
    made = [world.add(f"t{index}") for index in range(5)]
    _, after = world.index.page("f", Filter(status=Status.ENQUEUED, limit=2), 0)
    assert after == made[1].seq
    for task in made[:3]:
        world.cloud.stop(task, 1)
    assert world.ids(status=Status.ENQUEUED, after=after) == ["t3", "t4"]
    assert world.ids(status=Status.STOPPED) == ["t0", "t1", "t2"]
    assert world.ids(status=Status.STOPPED, descending=True, after=made[2].seq) == ["t1", "t0"]
    world.index.check()


def test_a_full_last_page_has_no_successor():
    world = World()
    for index in range(4):
        world.add(f"t{index}")
    found, after = world.index.page("f", Filter(limit=4), 0)
    assert (len(found), after) == (4, None)


def test_the_oldest_ended_tasks_are_forgotten_first():
    world = World(tasks_max=2)
    made = [world.add(f"t{index}") for index in range(4)]
    for task in (made[2], made[0], made[1]):
        world.cloud.stop(task, 1)
    assert world.ids() == ["t0", "t1", "t3"]
    assert world.index.find("f", "t2", 1) is None
    world.index.check()


def test_ended_tasks_are_forgotten_after_seven_days_and_waiting_ones_are_not():
    world = World()
    world.cloud.stop(world.add("ended"), 10)
    world.add("waiting")
    assert len(world.ids(10 + tasks.RETENTION_S - 1)) == 2
    assert world.ids(10 + tasks.RETENTION_S) == ["waiting"]


def test_the_payloads_of_ended_tasks_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(tasks, "PAYLOAD_BYTES_MAX", 1000)
    world = World()
    for index in range(5):
        world.cloud.stop(world.add(f"t{index}", size=400), 1)
    assert world.ids() == ["t3", "t4"]


def test_filters_narrow_the_listing():
    world = World()
    world.add("a1", now=0)
    world.add("b1", now=10)
    world.add("a2", now=20)
    assert world.ids(20, prefix="a") == ["a1", "a2"]
    assert world.ids(20, started_begin=10) == ["b1", "a2"]
    assert world.ids(20, started_end=10) == ["a1", "b1"]
    assert world.ids(20, qualifier="prod") == []
    assert world.ids(20, function="g") == []
