import math
import random

from dispatcher.core.durations import RUNS_MIN
from dispatcher.trackers.duration import EarlyEnds, Excess


class TestEarlyEnds:
    def test_it_lies_below_nine_of_ten_runs(self):
        rng = random.Random(1)
        early = EarlyEnds()
        for _ in range(5000):
            early.add(rng.uniform(30.0, 90.0))
        early_s = early.early_s()
        assert early_s is not None
        assert 31.0 < early_s < 37.0

    def test_a_burst_in_which_the_long_runs_end_last_does_not_raise_it(self):
        rng = random.Random(1)
        early = EarlyEnds()
        for run_s in sorted(rng.uniform(600.0, 900.0) for _ in range(5000)):
            early.add(run_s)
        early_s = early.early_s()
        assert early_s is not None
        assert early_s < 650.0

    def test_one_block_of_runs_that_fail_at_once_does_not_count_for_much(self):
        early = EarlyEnds()
        for _ in range(EarlyEnds.BLOCK * 20):
            early.add(60.0)
        for _ in range(EarlyEnds.BLOCK):
            early.add(0.1)
        assert early.early_s() == 60.0

    def test_it_follows_a_function_that_has_become_slower_or_faster(self):
        early = EarlyEnds()
        for run_s in (1.0, 50.0, 2.0):
            for _ in range(EarlyEnds.BLOCK * EarlyEnds.BLOCKS_MAX):
                early.add(run_s)
            assert early.early_s() == run_s

    def test_it_is_not_known_from_too_few_runs(self):
        early = EarlyEnds()
        for _ in range(RUNS_MIN - 1):
            early.add(1.0)
        assert early.early_s() is None
        early.add(1.0)
        assert early.early_s() == 1.0


class TestExcess:
    def test_calm_times_show_hardly_any_delay(self):
        rng = random.Random(1)
        excess = Excess()
        delays = [excess.start_delay_s(rng.uniform(1.0, 2.0)) for _ in range(2000)]
        known = [delay_s for delay_s in delays if delay_s is not None]
        assert delays[0] is None
        assert len(known) >= 2000 - Excess.BLOCK
        assert math.fsum(known) / len(known) < 0.03

    def test_a_queue_shows_as_what_exceeds_the_usual(self):
        rng = random.Random(1)
        excess = Excess()
        for _ in range(10 * Excess.BLOCK):
            excess.start_delay_s(rng.uniform(1.0, 2.0))
        queued = [
            excess.start_delay_s(rng.uniform(1.0, 2.0) + 10.0) for _ in range(4 * Excess.BLOCK)
        ]
        known = [delay_s for delay_s in queued if delay_s is not None]
        assert 8.5 < math.fsum(known) / len(known) <= 10.0

    def test_a_function_that_has_become_slower_is_no_congestion_for_ever(self):
        excess = Excess()
        for elapsed_s in (1.0, 5.0):
            for _ in range(Excess.BLOCK * (Excess.BLOCKS_MAX + 1)):
                delay_s = excess.start_delay_s(elapsed_s)
        assert delay_s == 0.0
