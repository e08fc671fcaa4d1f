import math

from tests.core.world import World, rules_of


def test_every_attempt_has_a_task_id_of_its_own_and_the_first_may_be_chosen():
    job = World(rules_of()).job(chosen_task_id="mine")
    assert job.task_id == "mine"
    job.next_attempt()
    assert job.task_id == "i1_2"
    job = World(rules_of()).job()
    assert job.task_id == "i1"
    job.next_attempt()
    assert job.task_id == "i1_2"


def test_rank_is_when_it_was_due_less_its_head_start():
    w = World(rules_of())
    w.now = 50.0
    assert w.job().rank == 50.0
    assert w.job(delay_s=10.0, priority=25.0).rank == 35.0
    assert w.job(priority=-5.0).rank == 55.0


def test_a_new_attempt_knows_nothing_of_the_one_before():
    job = World(rules_of()).job(
        expires_s=9.0, failures=3, maybe_sent=True, first_sent_at=1.0, sent_at=2.0, request_id="r"
    )
    job.next_attempt()
    assert (job.attempt, job.failures, job.maybe_sent, job.expires_at) == (2, 0, False, math.inf)
    assert (job.first_sent_at, job.sent_at, job.request_id) == (None, None, None)
