import pytest

from dispatcher.emulator.instances import Bucket, Fleet, Instance, Pool
from dispatcher.emulator.providers import Shortage
from dispatcher.emulator.settings import Account, Function, Ramp


def make_fleet(quota: int = 10, **fields) -> Fleet:
    fields = {"provider": "aliyun-fc", **fields}
    return Fleet(Account(account_id="1", region="here", quota=quota, **fields))


def make_pool(fleet: Fleet, name: str = "f", **fields) -> Pool:
    pool = Pool(name, Function(**fields))
    fleet.add(pool)
    return pool


def take(fleet: Fleet, pool: Pool, now: float = 0) -> Instance:
    acquired = fleet.acquire(pool, now)
    assert not isinstance(acquired, Shortage), acquired
    return acquired[0]


# -- One function ---------------------------------------------------------------------------------


def test_runs_share_instances_up_to_their_concurrency():
    fleet = make_fleet()
    pool = make_pool(fleet, instance_concurrency=3)
    used = [take(fleet, pool) for _ in range(7)]
    assert pool.in_use == fleet.in_use == pool.peak == 3
    assert [used.count(instance) for instance in dict.fromkeys(used)] == [3, 3, 1]


def test_packed_runs_hold_as_few_instances_as_they_can():
    fleet = make_fleet()
    pool = make_pool(fleet, instance_concurrency=2)
    first, _, second, _ = (take(fleet, pool) for _ in range(4))
    fleet.release(pool, first, 0)
    fleet.release(pool, second, 0)
    assert fleet.in_use == 1
    for instance in (first, second):
        fleet.release(pool, instance, 0)
    assert fleet.in_use == 0


def test_pinned_runs_hold_their_own_instances():
    fleet = make_fleet()
    pool = make_pool(fleet, instance_concurrency=2, placement="pinned")
    first, _, second, _ = (take(fleet, pool) for _ in range(4))
    fleet.release(pool, first, 0)
    fleet.release(pool, second, 0)
    assert fleet.in_use == 2
    # A new run goes where there is room, before another instance is taken.
    assert take(fleet, pool) in {first, second}
    assert fleet.in_use == 2


def test_instances_stay_warm_for_a_while_and_the_last_used_is_taken_first():
    fleet = make_fleet()
    pool = make_pool(fleet, idle_s=10)
    first, second = take(fleet, pool), take(fleet, pool)
    fleet.release(pool, first, 0)
    fleet.release(pool, second, 5)
    assert fleet.acquire(pool, 10) == (second, False)
    acquired = fleet.acquire(pool, 11)
    assert not isinstance(acquired, Shortage)
    assert acquired[1] is True
    assert pool.created == 3


def test_releasing_twice_is_a_broken_promise():
    fleet = make_fleet()
    pool = make_pool(fleet, placement="pinned")
    instance = take(fleet, pool)
    fleet.release(pool, instance, 0)
    with pytest.raises(AssertionError):
        fleet.release(pool, instance, 0)


def test_instance_seconds_are_integrated():
    fleet = make_fleet(quota=4)
    pool = make_pool(fleet)
    one = take(fleet, pool, 0)
    two = take(fleet, pool, 1)
    fleet.release(pool, one, 3)
    fleet.change(4, foreign=2)
    fleet.release(pool, two, 6)
    fleet.count(10)
    assert pool.seconds == 1 * 1 + 2 * 2 + 1 * 3
    assert fleet.free_seconds == 4 * 4 + 2 * 6


# -- The account ----------------------------------------------------------------------------------


def test_the_quota_is_shared_by_all_functions():
    fleet = make_fleet(quota=3)
    f, g = make_pool(fleet, "f"), make_pool(fleet, "g")
    taken = [take(fleet, f), take(fleet, g), take(fleet, f)]
    assert fleet.acquire(g, 0) is Shortage.ACCOUNT
    fleet.release(f, taken[0], 1)
    take(fleet, g, 1)


def test_foreign_callers_take_what_is_free_and_no_more():
    fleet = make_fleet(quota=4, foreign=1)
    pool = make_pool(fleet)
    held = [take(fleet, pool) for _ in range(3)]
    assert fleet.acquire(pool, 0) is Shortage.ACCOUNT
    fleet.change(1, foreign=10)
    assert fleet.foreign == 1
    # They are first at what we give back.
    fleet.release(pool, held[0], 2)
    assert fleet.foreign == 2
    assert fleet.acquire(pool, 2) is Shortage.ACCOUNT
    fleet.change(3, foreign=0)
    take(fleet, pool, 3)
    assert fleet.total_peak == 4


def test_a_reservation_is_a_floor_and_a_ceiling():
    fleet = make_fleet(quota=5)
    mine, others = make_pool(fleet, "mine", reserved=2), make_pool(fleet, "others")
    for _ in range(3):
        take(fleet, others)
    assert fleet.acquire(others, 0) is Shortage.ACCOUNT
    for _ in range(2):
        take(fleet, mine)
    assert fleet.acquire(mine, 0) is Shortage.FUNCTION
    assert fleet.unreserved == 3


def test_a_reservation_is_worth_nothing_beyond_the_quota():
    fleet = make_fleet(quota=3)
    mine, others = make_pool(fleet, "mine", reserved=1), make_pool(fleet, "others")
    for _ in range(2):
        take(fleet, others)
    fleet.change(0, quota=2)
    assert fleet.acquire(mine, 0) is Shortage.ACCOUNT
    fleet.change(0, quota=3)
    take(fleet, mine)


def test_foreign_callers_cannot_use_a_reservation():
    fleet = make_fleet(quota=3, foreign=10)
    pool = make_pool(fleet, reserved=1)
    assert fleet.foreign == 2
    take(fleet, pool)
    assert fleet.foreign == 2


def test_a_cap_keeps_nothing_free():
    fleet = make_fleet(quota=3)
    capped, others = make_pool(fleet, "capped", instances_max=1), make_pool(fleet, "others")
    for _ in range(3):
        take(fleet, others)
    assert fleet.acquire(capped, 0) is Shortage.ACCOUNT
    fleet = make_fleet(quota=3)
    capped = make_pool(fleet, "capped", instances_max=1)
    take(fleet, capped)
    assert fleet.acquire(capped, 0) is Shortage.FUNCTION


def test_vcpus_are_a_quota_of_their_own():
    fleet = make_fleet(quota=100, vcpu_max=1)
    fat, thin = make_pool(fleet, "fat", vcpu=0.7), make_pool(fleet, "thin", vcpu=0.1)
    held = take(fleet, fat)
    assert fleet.acquire(fat, 0) is Shortage.RESOURCE
    for _ in range(3):
        take(fleet, thin)
    assert fleet.acquire(thin, 0) is Shortage.RESOURCE
    fleet.release(fat, held, 1)
    for _ in range(7):
        take(fleet, thin, 1)
    assert fleet.acquire(thin, 1) is Shortage.RESOURCE


def test_a_run_that_fits_on_a_busy_instance_needs_no_quota():
    fleet = make_fleet(quota=1)
    pool = make_pool(fleet, instance_concurrency=2)
    take(fleet, pool)
    fleet.change(0, quota=0)
    take(fleet, pool)
    assert fleet.acquire(pool, 0) is Shortage.ACCOUNT


@pytest.mark.parametrize(("provider", "shared"), [("aliyun-fc", True), ("aws-lambda", False)])
def test_the_ramp_is_of_the_account_on_fc_and_of_each_function_on_lambda(provider, shared):
    fleet = make_fleet(provider=provider, ramp=Ramp(burst=1, per_minute=60))
    f, g = make_pool(fleet, "f"), make_pool(fleet, "g")
    take(fleet, f)
    assert fleet.acquire(f, 0) is Shortage.RAMP
    assert (fleet.acquire(g, 0) is Shortage.RAMP) is shared
    take(fleet, f, 1)


def test_other_settings_keep_the_counts_right():
    fleet = make_fleet()
    pool = make_pool(fleet, vcpu=0.5, instance_concurrency=1)
    held = [take(fleet, pool) for _ in range(3)]
    changed = Function(reserved=4, vcpu=0.25, instance_concurrency=2)
    fleet.change_function(pool, changed, 1)
    take(fleet, pool, 1)
    assert (fleet.in_use, fleet.unreserved) == (3, 6)
    for instance in held:
        fleet.release(pool, instance, 2)
    assert fleet.in_use == 1


def test_a_bucket_fills_at_its_rate_and_not_beyond():
    bucket = Bucket(2, 0.5)
    assert [bucket.take(0) for _ in range(3)] == [True, True, False]
    assert not bucket.take(1.9)
    assert bucket.take(2)
    assert [bucket.take(1000) for _ in range(3)] == [True, True, False]
    # A clock that goes back neither fills nor breaks it.
    assert not bucket.take(0)
