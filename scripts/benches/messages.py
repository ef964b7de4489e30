"""Rules and plans of messages: a million decisions held against the rules, and a million users planned for a day."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np

from data.world.settings import CHANNELS
from policy.messaging.planner import best_of_matrix, plan
from policy.messaging.violations import violations
from scripts.benches.made_up_sends import made_up_log
from scripts.benches.measure import Measure

OPTIONS = 3 * len(CHANNELS)  # of a user: three opportunities by each channel
SHARES = (0.05, 0.2, 0.4)  # of the users that the budgets reach, by channel


def bench_messages(users: int = 20_000, days: int = 50, planned: int = 1_000_000) -> Iterable[Measure]:
    """`users` x `days` decisions drawn among what the rules allow, by people who move between time zones while clocks
    change; then a plan for `planned` users, scores excluded: they are drawn.

    Processor seconds of one process. The gap is what the plan may fall short of the linear program's bound by.
    """
    log = made_up_log(users, days, seed=0)
    started = time.process_time()
    broken = violations(log.decisions, log.users, log.rules)
    took = time.process_time() - started
    name = f"messages: {log.decisions.height:,} decisions"
    yield Measure(f"{name}, sends against a rule", "sends", float(sum(broken.values())), None, 0.0)
    yield Measure(f"{name}, all rules checked", "s", took, None, 60.0)

    rng = np.random.default_rng(0)
    values = rng.standard_normal((planned, OPTIONS), dtype=np.float32) + np.repeat(
        rng.standard_normal((planned, 1), dtype=np.float32), OPTIONS, axis=1
    )
    values[rng.random(values.shape, dtype=np.float32) < 0.2] = -np.inf  # not allowed
    budgets = tuple(int(share * planned) for share in SHARES)
    started = time.process_time()
    made = plan(best_of_matrix(values, np.tile(np.arange(len(CHANNELS)), OPTIONS // len(CHANNELS))), budgets)
    took = time.process_time() - started
    over = int(np.maximum(made.sends - np.array(budgets), 0).sum())
    name = f"messages: {planned:,} users planned"
    yield Measure(f"{name}, {OPTIONS} options each", "s", took, None, 60.0)
    yield Measure(f"{name}, gap to the bound", "%", 100.0 * made.gap, None, 0.01)
    yield Measure(f"{name}, sends over budget", "sends", float(over), None, 0.0)
