"""The parts that keep a server standing: the breaker, the limit on requests in flight, the draw by popularity, arms."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from data.ingest import StoreSettings, write_store
from data.store import LogStore
from policy.serving.admission import Admission, Overloaded
from policy.serving.breaker import Attempt, Breaker
from policy.serving.experiments import Experiment, place, read_experiment
from policy.serving.keys import Keys, add_key, revoke_key
from policy.serving.popular import VOTES, Popular
from tests.policy.serving.tiny_run import ITEMS, tiny_catalog, tiny_log


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def attempt(breaker: Breaker) -> Attempt:
    made = breaker.attempt()
    assert made is not None
    return made


def test_a_breaker_opens_after_failures_in_a_row_and_lets_one_probe_through() -> None:
    clock = Clock()
    breaker = Breaker(failures=3, rest_seconds=1.0, longest_seconds=3.0, clock=clock)
    for _ in range(2):
        attempt(breaker).failed()
    attempt(breaker).succeeded()
    for _ in range(3):
        attempt(breaker).failed()

    assert breaker.is_open
    for rest in (1.0, 2.0, 3.0, 3.0):  # twice as long each time, up to the longest
        clock.now += rest - 0.01
        assert breaker.attempt() is None
        clock.now += 0.02
        one = attempt(breaker)
        assert breaker.attempt() is None  # one probe
        one.failed()
    clock.now += 3.1
    attempt(breaker).abandoned()  # the probe's client left: the next request may probe
    attempt(breaker).succeeded()
    attempt(breaker)
    assert not breaker.is_open


def test_what_was_begun_before_a_breaker_opened_says_nothing_about_it() -> None:
    """A hundred requests that time out together rest it once, and those that end during the probe do not answer it."""
    clock = Clock()
    breaker = Breaker(failures=3, rest_seconds=1.0, longest_seconds=60.0, clock=clock)
    under_way = [attempt(breaker) for _ in range(100)]
    for one in under_way[:90]:
        one.failed()
    clock.now += 1.01
    probe = attempt(breaker)
    for one in under_way[90:95]:
        one.failed()
    for one in under_way[95:]:
        one.succeeded()
        one.abandoned()
    assert breaker.is_open
    assert breaker.attempt() is None  # the probe is still out
    probe.succeeded()
    assert not breaker.is_open
    for one in under_way:
        one.failed()
    assert not breaker.is_open


def test_the_limit_falls_when_answers_are_slow_and_recovers_when_they_are_fast() -> None:
    clock = Clock()
    admission = Admission(most=64, least=4, target_seconds=1.0, clock=clock)

    def rounds(count: int, seconds: float) -> None:
        for _ in range(count):
            places = [admission.place() for _ in range(admission.limit)]
            for each in places:
                each.__enter__()
            with pytest.raises(Overloaded):
                admission.place().__enter__()
            clock.now += seconds
            for each in places:
                each.__exit__(None, None, None)

    rounds(60, 3.0)
    assert admission.limit == 4
    rounds(100, 0.1)
    assert admission.limit == 64
    assert admission.in_flight == 0


def test_a_late_model_halves_the_limit_once_and_quick_answers_of_popularity_do_not_raise_it() -> None:
    clock = Clock()
    admission = Admission(most=128, least=4, target_seconds=3.0, clock=clock)

    def answered(seconds: float) -> None:
        places = [admission.place() for _ in range(admission.limit)]
        for each in places:
            each.__enter__()
        clock.now += seconds
        for each in places:
            each.__exit__(None, None, None)

    assert admission.limit == 32
    for _ in range(32):
        admission.late()
    assert admission.limit == 16
    answered(0.01)
    assert admission.limit == 16
    clock.now += 3.0
    answered(0.01)
    assert admission.limit > 16


def test_popular_slates_have_the_probability_that_is_logged() -> None:
    """Drawn 40,000 times, every one of the 24 slates of two of five items comes as often as its propensity says."""
    popular = Popular(np.array([1.0, 2.0, 3.0, 4.0, 50.0]))
    eligible = np.array([True, True, True, True, False])
    rng = np.random.default_rng(0)
    drawn = Counter(popular.draw(eligible, 2, rng)[0] for _ in range(40_000))

    expected = {rows: popular.propensity(rows, eligible) for rows in itertools.permutations(range(4), 2)}
    assert set(drawn) == set(expected)
    assert sum(expected.values()) == pytest.approx(1)
    chi2 = sum((drawn[rows] - 40_000 * p) ** 2 / (40_000 * p) for rows, p in expected.items())
    assert chi2 < 31.3  # 99.9% of chi-squared with 11 degrees of freedom


def test_popularity_is_what_the_log_says_people_chose(tmp_path: Path) -> None:
    catalog = tiny_catalog()
    write_store(tiny_log(catalog), tmp_path, StoreSettings(buckets=4))
    store = LogStore(tmp_path)
    chosen = Counter(item for item, action in store.events().select("item_id", "action").iter_rows() if action in VOTES)

    popular = Popular.of(catalog, store)

    assert popular.weights.tolist() == [1.0 + chosen[f"item-{row:02d}"] for row in range(ITEMS)]
    assert popular.version == Popular.of(catalog, store).version != Popular.of(catalog, None).version


def experiment(*shares: float) -> Experiment:
    arms = [{"name": f"arm{n}", "policy": "ppo", "share": share} for n, share in enumerate(shares)]
    return read_experiment({"name": "e", "arms": arms}, ["ppo"])


def test_shares_are_kept_and_assignments_are_independent_between_experiments() -> None:
    users = [f"user-{number}" for number in range(20_000)]
    counts = Counter(experiment(0.2, 0.3, 0.5).assign(user)[1] for user in users)

    for arm, share in (("e:arm0", 0.2), ("e:arm1", 0.3), ("e:arm2", 0.5)):
        assert abs(counts[arm] - share * 20_000) < 4 * np.sqrt(20_000 * share * (1 - share))
    one, other = (np.array([place(salt, user) for user in users]) for salt in ("e", "f"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(20_000)


@given(st.floats(0.05, 0.9), st.floats(0.0, 0.05))
@settings(max_examples=20, deadline=None)
def test_growing_an_arm_moves_only_those_whom_it_takes_over(share: float, more: float) -> None:
    before, after = experiment(share, 1 - share), experiment(share + more, 1 - share - more)
    for number in range(300):
        was, now = (each.assign(f"u{number}")[0].name for each in (before, after))
        assert was == now or (was, now) == ("arm1", "arm0")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"arms": []}, "arms"),
        ({"name": "a b"}, "name"),
        ({"overrides": {"u": "nobody"}}, "there is no arm 'nobody'"),
        ({"arms": [{"name": "a", "policy": "ppo", "share": 0.5}] * 2}, "same name"),
        ({"arms": [{"name": "a", "policy": "ppo", "share": 1, "weights": {"fame": 1}}]}, "unknown objective 'fame'"),
        ({"arms": [{"name": "a", "policy": "ppo", "share": 1, "weights": {"clicks": 2}}]}, "not from 0 to 1"),
        ({"arms": [{"name": "a", "policy": "ppo", "share": float("nan")}]}, "share"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_experiments_are_refused_by_name(change: dict[str, object], reason: str) -> None:
    right = {"name": "e", "arms": [{"name": "a", "policy": "ppo", "share": 1}]}
    with pytest.raises(InputError, match=reason):
        read_experiment(right | change, ["ppo"])


def test_a_bucket_refills_and_a_name_is_taken_once(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "keys.json"
    presented = add_key(file, "web", per_second=2.0, burst=2)
    keys = Keys(file, clock)
    key = keys.find(presented)

    assert key is not None
    assert [keys.take(key) for _ in range(3)] == [0.0, 0.0, 0.5]
    clock.now += 0.5
    assert keys.take(key) == 0.0
    with pytest.raises(InputError, match="there is a key 'web' already"):
        add_key(file, "web")
    with pytest.raises(InputError, match="there is no key 'app': it has web"):
        revoke_key(file, "app")
    revoke_key(file, "web")
    keys.refresh()
    assert keys.find(presented) is None
    assert keys.required  # the last key's going does not open the server
