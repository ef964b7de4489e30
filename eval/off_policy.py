"""What would this policy have earned? Every estimator's value from one pass over a log, or why the log cannot say.

The pass adds up a few columns by user, for all estimators, all candidates of their hyperparameters and all weights at
once, so a log may come in blocks and be larger than memory (`eval.rounds.parquet_rounds`). From those sums come the
verdict on support (eval/support.py), the hyperparameters (eval/slope.py) and intervals clustered by user, also for the
paired difference from the logging policy's own mean reward on the same rounds (eval/intervals.py).

    value = off_policy_value(LoggedRounds(log_p_log, log_p_new, reward, user), OffPolicySettings())
    value.estimates["snips"].value, value.estimates["snips"].lo
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any, Literal

import numpy as np

from data.errors import InputError
from eval.estimators import ESTIMATORS, Estimator, estimator_named
from eval.intervals import (
    Floats,
    Interval,
    bootstrap_values,
    finite,
    from_bernstein,
    from_bootstrap,
    from_shares,
    ratios_of_sums,
)
from eval.rounds import BLOCK_ROWS, SUM_SLACK, Columns, LoggedRounds, checked_columns, of_length
from eval.slope import slope
from eval.support import Support, SupportSettings, verdict, without_propensities
from eval.user_sums import UserSums
from eval.weights import WeightTally

INTERVALS = ("asymptotic", "bootstrap", "bernstein")
TUNED = tuple(name for name, estimator in ESTIMATORS.items() if estimator.grid)
COUNT, REWARD = 0, 1  # the first two columns of every pass
FEWEST_DRAWS = 40  # of a bootstrap: the 2.5% percentile of fewer is the least of them


@dataclass(frozen=True)
class OffPolicySettings:
    """How to estimate.

    estimators: names, in order; those whose columns the rounds lack are left out. parameters: hyperparameters to fix
    by estimator; the others are chosen by SLOPE. interval: asymptotic (sandwich, Student's t), bootstrap (of users,
    percentile, `draws` draws from `seed`) or bernstein (holds for any number of users, wide).

    Raises InputError for names that are not known, a parameter of an estimator that has none, one that is no positive
    number, and too few draws.
    """

    estimators: tuple[str, ...] = tuple(ESTIMATORS)
    parameters: Mapping[str, float] = field(default_factory=dict)
    interval: Literal["asymptotic", "bootstrap", "bernstein"] = "asymptotic"
    draws: int = 1000
    seed: int = 0
    support: SupportSettings = field(default_factory=SupportSettings)

    def __post_init__(self) -> None:
        if self.interval not in INTERVALS:
            raise InputError(f"interval {self.interval!r}: choose {', '.join(INTERVALS)}")
        if self.draws < FEWEST_DRAWS:
            raise InputError(f"draws: {self.draws}; an interval from a bootstrap takes {FEWEST_DRAWS} or more")
        for name in self.estimators:
            estimator_named(name)
        for name, value in self.parameters.items():
            if not estimator_named(name).grid:
                raise InputError(f"parameters: {name} has none; those that have: {', '.join(TUNED)}")
            if not value >= 0:
                raise InputError(f"parameters: {name} is {value}; give a number that is not negative, or infinity")


@dataclass(frozen=True)
class Estimate:
    """One estimator's value of one policy; value and bounds are None when refused, `ess` (rounds) is always there.

    diff, diff_lo, diff_hi: the value less the logging policy's mean reward, paired on the same rounds. parameter: the
    hyperparameter used, None where there is none or it sets no limit.
    """

    value: float | None
    lo: float | None
    hi: float | None
    ess: float
    diff: float | None = None
    diff_lo: float | None = None
    diff_hi: float | None = None
    refused: str | None = None
    parameter: float | None = None


@dataclass(frozen=True)
class OffPolicyValue:
    """All estimates of one policy's value, what the log supports, and the logging policy's own mean reward.

    support: of whole slates' weights. supports: by the family of weights that an estimator stands on.
    """

    estimates: Mapping[str, Estimate]
    support: Support
    logging: Estimate
    supports: Mapping[str, Support] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """An estimator with one value of its hyperparameter, and where its sums are: columns top, bottom, top, ..."""

    estimator: Estimator
    parameter: float | None
    columns: tuple[int, ...]


class Pass:
    """One pass over blocks of rounds with propensities: adds up what every candidate needs."""

    def __init__(self, first: Columns, settings: OffPolicySettings) -> None:
        self.settings = settings
        chosen = [estimator_named(name) for name in settings.estimators]
        self.estimators = [estimator for estimator in chosen if first.has(estimator.needs)]
        self.families = list(dict.fromkeys(["slate", *(estimator.family for estimator in self.estimators)]))
        self.tallies = {
            family: [WeightTally() for _ in range(first.weights(family).shape[1])] for family in self.families
        }
        self.sums = UserSums()
        self.candidates: list[Candidate] = []
        self.weight_columns: dict[str, list[int]] = {}
        self.outside: float | None = None

    def add(self, rounds: LoggedRounds, columns: Columns) -> None:
        """Counts a block in. Raises InputError where it lacks a column that the first block had."""
        n = columns.r.size
        added = [np.ones(n), columns.r]
        self.candidates, self.weight_columns = [], {}
        for estimator in self.estimators:
            if not columns.has(estimator.needs):
                raise InputError(f"rounds: a block lacks a column that the first one had, needed by {estimator.name}")
            for parameter in self.grid(estimator):
                places = []
                for top, bottom in estimator.terms(columns, float("inf") if parameter is None else parameter):
                    added.append(top)
                    places.append(len(added) - 1)
                    places.append(COUNT if bottom is None else len(added))
                    if bottom is not None:
                        added.append(bottom)
                self.candidates.append(Candidate(estimator, parameter, tuple(places)))
        for family, tallies in self.tallies.items():
            weights = columns.weights(family)
            for place, tally in enumerate(tallies):
                tally.add(weights[:, place])
                added.append(weights[:, place])
            self.weight_columns[family] = list(range(len(added) - len(tallies), len(added)))
        if rounds.off_support is not None:
            outside = of_length(rounds.off_support, "off_support", n)
            if not 0.0 <= outside.min() <= outside.max() <= 1.0 + SUM_SLACK:
                raise InputError("off_support: a share of the new policy's mass lies between 0 and 1")
            self.outside = (self.outside or 0.0) + float(outside.sum())
        self.sums.add(rounds.user, np.stack(added, axis=1))

    def grid(self, estimator: Estimator) -> Sequence[float | None]:
        """Hyperparameters to try."""
        if estimator.name in self.settings.parameters:
            return [self.settings.parameters[estimator.name]]
        return estimator.grid or [None]

    def supports(self, table: Floats) -> dict[str, Support]:
        """The verdict on each family of weights, on its worst position where there are several.

        What the new policy does that logging never would is known of whole actions. Marginal weights ask less: an
        action that was never logged may be of a cluster that was, so theirs is estimated from their own mean weight.
        """
        found = {}
        for family, tallies in self.tallies.items():
            outside = None if self.outside is None or family != "slate" else self.outside / self.sums.rounds
            verdicts = [
                verdict(tally, table[:, place], table[:, COUNT], self.settings.support, outside)
                for tally, place in zip(tallies, self.weight_columns[family], strict=True)
            ]
            found[family] = min(verdicts, key=lambda support: (support.refused is None, support.ess_users))
        return found

    def chosen(self, name: str, table: Floats) -> tuple[Candidate, float]:
        """The candidate of an estimator that SLOPE takes, and how far that moves the value from its untuned self."""
        found = [candidate for candidate in self.candidates if candidate.estimator.name == name]
        if len(found) == 1:
            return found[0], 0.0
        values, shares = zip(*(ratios_of_sums(table[:, candidate.columns]) for candidate in found), strict=True)
        taken = slope(values, shares)
        return found[taken], values[taken] - values[0]


def off_policy_value(rounds: LoggedRounds | Iterable[LoggedRounds], settings: OffPolicySettings) -> OffPolicyValue:
    """Every estimator's value of the new policy on these rounds, or the reason why the log cannot say.

    rounds: the whole log, or blocks of it in any order; users may come back in later blocks. Estimators whose columns
    are missing are left out. Raises InputError on no rounds, columns of different lengths, NaN or infinite values,
    log-probabilities above zero, rounds of a single user, and columns that only some of the blocks have.
    """
    blocks = in_blocks(rounds)
    first = next(blocks, None)
    if first is None:
        raise InputError("rounds: none; there is nothing to estimate from")
    blocks = chain([first], blocks)
    if not first.with_propensities:
        return _refused_without_propensities(blocks, settings)
    run: Pass | None = None
    for block in blocks:
        columns = checked_columns(block)
        run = run or Pass(columns, settings)
        if (block.off_support is None) != (first.off_support is None):
            raise InputError("off_support: some blocks have it and some have not; give it of every round or of none")
        run.add(block, columns)
    assert run is not None
    _, table = run.sums.table()
    logging = _estimate(run, table, Candidate(estimator_named("ips"), None, (REWARD, COUNT)), float(run.sums.rounds))
    supports = run.supports(table)
    estimates = {}
    for estimator in run.estimators:
        support = supports[estimator.family]
        if support.refused is not None:
            estimates[estimator.name] = Estimate(None, None, None, support.ess, refused=support.refused)
        else:
            candidate, moved = run.chosen(estimator.name, table)
            estimates[estimator.name] = _estimate(run, table, candidate, support.ess, moved)
    return OffPolicyValue(estimates, supports["slate"], logging, supports)


def in_blocks(rounds: LoggedRounds | Iterable[LoggedRounds], rows: int = BLOCK_ROWS) -> Iterator[LoggedRounds]:
    """Blocks of at most `rows` rounds; empty ones are left out."""
    for part in [rounds] if isinstance(rounds, LoggedRounds) else rounds:
        n = np.asarray(part.reward).size
        if 0 < n <= rows:
            yield part
            continue
        given = {name: getattr(part, name) for name in (field.name for field in fields(part))}
        for start in range(0, n, rows):
            sliced: dict[str, Any] = {
                name: None if values is None else np.asarray(values)[start : start + rows]
                for name, values in given.items()
                if values is None or _of_length(values, name, n)
            }
            yield LoggedRounds(**sliced)


def _of_length(values: object, name: str, n: int) -> bool:
    size = len(np.asarray(values))
    if size != n:
        raise InputError(f"{name}: {size} values for {n} rewards; columns must have the same length")
    return True


def _estimate(run: Pass, table: Floats, candidate: Candidate, ess: float, moved: float = 0.0) -> Estimate:
    """Value, interval and paired difference of a candidate.

    moved: how far tuning took it from its untuned self, which is unbiased and noisy: the most that is known of its
    bias. The interval is widened by it, in quadrature, so that a value bought with bias is not sold as a sure one.
    """
    sums, logging = table[:, candidate.columns], table[:, (REWARD, COUNT)]
    value, shares = ratios_of_sums(sums)
    mean, own = ratios_of_sums(logging)
    if run.settings.interval == "bootstrap":
        rng = np.random.default_rng(run.settings.seed)
        values, differences = bootstrap_values(sums, run.settings.draws, rng, less=logging)
        interval = from_bootstrap(value, values, len(table))
        paired = from_bootstrap(value - mean, differences, len(table))
    else:
        of = from_shares if run.settings.interval == "asymptotic" else from_bernstein
        interval, paired = of(value, shares), of(value - mean, shares - own)
    limit = candidate.parameter
    return Estimate(
        value,
        *_widened(interval, moved),
        ess,
        paired.value,
        *_widened(paired, moved),
        parameter=None if limit is None or np.isinf(limit) else limit,
    )


def _widened(interval: Interval, moved: float) -> tuple[float, float]:
    """Bounds with `moved` added to the standard error in quadrature."""
    by = float(np.hypot(1.0, moved / interval.se)) if interval.se > 0 else 1.0
    return interval.value - by * (interval.value - interval.lo), interval.value + by * (interval.hi - interval.value)


def _refused_without_propensities(blocks: Iterable[LoggedRounds], settings: OffPolicySettings) -> OffPolicyValue:
    """The logging policy's own mean, and no value of any other."""
    sums = UserSums()
    names: tuple[str, ...] = ()
    for block in blocks:
        if block.with_propensities:
            raise InputError("log_p_log: a later block has propensities, the first has none; leave out what has none")
        reward = finite(block.reward, "reward")
        sums.add(block.user, np.stack([np.ones(reward.size), reward], axis=1))
        q, v = (None if column is None else finite(column, "q, v") for column in (block.q, block.v))
        plain = Columns(reward, reward, q, v)
        names = tuple(name for name in settings.estimators if plain.has(ESTIMATORS[name].needs))
    _, table = sums.table()
    value, shares = ratios_of_sums(table[:, (REWARD, COUNT)])
    own: Interval = from_shares(value, shares)
    support = without_propensities(sums.rounds, len(table))
    none = Estimate(None, None, None, support.ess, refused=support.refused)
    logging = Estimate(own.value, own.lo, own.hi, float(sums.rounds), 0.0, 0.0, 0.0)
    return OffPolicyValue(dict.fromkeys(names, none), support, logging, {"slate": support})
