"""Who is moved by it, not who comes anyway: effects per listener from a log with randomised exposure.

An outcome model ranks people by how likely they are to come; most of those come whatever they are sent. What a
treatment is worth to someone is the difference it makes to them, tau(x) = E[Y(1) - Y(0) | x]. Four ways to rank by it,
each fitted on the rows of folds that do not hold the person it is asked about (cross-fitting, Chernozhukov et al.,
2018):

| name | what it ranks by |
|---|---|
| outcome | E[Y | x], the plain outcome model: what is in use |
| t_learner | the difference of two outcome models, one of the treated and one of the others |
| r_learner | least squares of (Y - m(x)) on (T - e(x)) tau(x): Nie & Wager, 2021 |
| dr_learner | regression of the AIPW score of each person on x: Kennedy, 2023 |

The targets of the last two hold m(x) and the arms' means, cross-fitted too: of a person by models of the other folds,
among them the fold that is asked. So its outcomes have some part in what ranks it; to first order that is harmless,
because both targets are orthogonal to errors of those models.

e(x) is the propensity: the logged one where there is one, else estimated, with diagnostics of how far the two groups
overlap. Rankings are judged by their uplift curve (`gain_curve`), which needs nobody's own effect.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from data.errors import InputError
from data.logistic import fit_logistic
from rewards.boosting import lightgbm

Floats = NDArray[np.float64]
FEWEST = 200  # of the treated, and of the others
POINTS = 101


@dataclass(frozen=True)
class Trial:
    """n decisions: features (n, F), treated (n,), outcome (n,), the logged probability (n,) of being treated, or None
    where it is not known and has to be estimated, and whose they are, `person` (n,); None: everyone's own."""

    features: Floats
    treated: NDArray[np.bool_]
    outcome: Floats
    propensity: Floats | None = None
    person: NDArray[np.generic] | None = None

    @property
    def persons(self) -> NDArray[np.int64]:
        """Whose each row is, (n,), as numbers from 0 in order of appearance."""
        if self.person is None:
            return np.arange(len(self.outcome))
        _, first, found = np.unique(self.person, return_index=True, return_inverse=True)
        place: NDArray[np.int64] = np.argsort(np.argsort(first))
        numbered: NDArray[np.int64] = place[found]
        return numbered

    def checked(self) -> "Trial":
        """Itself. Raises InputError without features, on a group that is too small, a propensity outside (0, 1), or an
        outcome not known."""
        if self.features.ndim != 2 or self.features.shape[1] == 0:
            raise InputError(
                f"uplift: features of shape {self.features.shape}: give one column or more that tells people apart, "
                "for instance an attribute of theirs"
            )
        for name, group in (("treated", self.treated), ("untreated", ~self.treated)):
            size = len(np.unique(self.persons[group]))
            if size < FEWEST:
                raise InputError(f"uplift: {size} {name} people; at least {FEWEST} of each are needed")
        if np.isnan(self.outcome).any():
            raise InputError("uplift: an outcome is not known yet: leave out rows whose window has not closed")
        if self.propensity is not None and not np.all((self.propensity > 0) & (self.propensity < 1)):
            raise InputError(
                "uplift: a propensity is not in (0, 1): people who had no choice say nothing about an effect"
            )
        return self


@dataclass(frozen=True)
class Overlap:
    """How far treated and untreated people are comparable, under the propensity that is used.

    auc: how well features tell who was treated, .5 in a trial (cross-fitted). least, most: of the propensity. extreme:
    share of people below .05 or above .95. ess: effective number of people behind the weighted mean of the treated and
    of the others. imbalance: the largest standardised difference of a feature's mean, plain and after weighting.
    """

    known: bool
    auc: float
    least: float
    most: float
    extreme: float
    ess: tuple[float, float]
    imbalance: tuple[float, float]


@dataclass(frozen=True)
class Uplift:
    """One ranking: its Qini coefficient and AUUC with 95% intervals, and the Qini less that of the outcome model."""

    qini: tuple[float, float, float]  # value, lo, hi
    auuc: tuple[float, float, float]
    over_outcome: tuple[float, float, float] | None
    curve: Floats  # (POINTS,) gain after treating the first 0, 1, .. 100% of people, per person


@dataclass(frozen=True)
class UpliftReport:
    """The average effect (AIPW, with its 95% interval), the overlap, and every ranking by name."""

    effect: tuple[float, float, float]
    overlap: Overlap
    learners: Mapping[str, Uplift]


def gain_curve(score: Floats, treated: NDArray[np.bool_], outcome: Floats, propensity: Floats) -> tuple[Floats, Floats]:
    """Share of people treated, best score first, and what that gains per person of the whole, both (groups + 1,).

    gain(k) = k / n * (weighted mean of the treated among the first k less that of the others), weights 1 / e and
    1 / (1 - e) (Gutierrez & Gerardy, 2017, "uplift curve"; with a constant e, Radcliffe's Qini curve up to scale).
    People of one score are one group: there is no order among them to be right about.
    """
    return _gains(score, treated, outcome, propensity, np.ones(len(score)))


def area(share: Floats, gain: Floats) -> float:
    """AUUC: the area under a gain curve, over treating 0 to 100% of people."""
    return float(np.trapezoid(gain, share))


def qini(share: Floats, gain: Floats) -> float:
    """The area between a gain curve and that of treating people at random, a straight line to the same end."""
    return area(share, gain) - float(gain[-1]) / 2.0


def estimate(trial: Trial, seed: int, folds: int = 5, draws: int = 300) -> UpliftReport:
    """Fit every learner across folds and judge their rankings; intervals are a bootstrap over people, paired.

    All decisions of a person are in one fold and are drawn together, so that nobody is ranked by a model fitted on
    their rows, and ten decisions of one are not ten people. (The targets that the R- and the DR-learner are fitted to
    on other people come from models that held the asked fold: harmless to first order, as they are orthogonal.)
    Raises InputError for a trial that cannot say (see `Trial.checked`).
    """
    trial = trial.checked()
    person = trial.persons
    count = int(person.max()) + 1
    fold = (np.random.default_rng(seed).permutation(count) % folds)[person]
    guessed = crossfit_propensity(trial, fold)
    e = trial.propensity if trial.propensity is not None else np.clip(guessed, 0.02, 0.98)
    scores, pseudo = _crossfit(trial, e, fold, seed)
    average = float(pseudo.mean())
    by_person = np.bincount(person, pseudo - average)
    half = 1.96 * float(np.sqrt(count / (count - 1) * np.sum(by_person**2))) / len(pseudo)
    judged = _judge(scores, trial, e, draws, np.random.default_rng(seed))
    return UpliftReport((average, average - half, average + half), _overlap(trial, e, guessed), judged)


def crossfit_propensity(trial: Trial, fold: NDArray[np.integer]) -> Floats:
    """Probability (n,) of being treated by a logistic regression on the features, fitted on the other folds."""
    x = (trial.features - trial.features.mean(0)) / np.maximum(trial.features.std(0), 1e-9)
    design = np.concatenate([np.ones((len(x), 1)), x], axis=1)
    prior = np.concatenate([[1e-3], np.ones(x.shape[1])])
    result = np.empty(len(x))
    for k in np.unique(fold):
        weights = fit_logistic(design[fold != k], trial.treated[fold != k], prior)
        result[fold == k] = 1.0 / (1.0 + np.exp(-np.clip(design[fold == k] @ weights, -30.0, 30.0)))
    return result


def _crossfit(trial: Trial, e: Floats, fold: NDArray[np.integer], seed: int) -> tuple[dict[str, Floats], Floats]:
    """Scores (n,) by learner, and everyone's AIPW score, from models that were fitted on other people's rows.

    m and mu of a person are of models that have not seen them. r and dr are fitted to those of the other folds, which
    are of models that have: an error of second order.
    """
    x, t, y = trial.features, trial.treated, trial.outcome
    n = len(y)
    plain, mu = np.empty(n), np.empty((2, n))
    for k in np.unique(fold):
        teach, ask = fold != k, fold == k
        plain[ask] = trees(x[teach], y[teach], None, seed)(x[ask])
        for arm in (0, 1):
            rows = teach & (t == bool(arm))
            mu[arm, ask] = trees(x[rows], y[rows], None, seed)(x[ask])
    # m = E[Y | x] under the propensities used, from the two arms, so that a changing e does not end up in it.
    m = e * mu[1] + (1 - e) * mu[0]
    pseudo = mu[1] - mu[0] + t * (y - mu[1]) / e - ~t * (y - mu[0]) / (1 - e)
    away = t - e
    r, dr = np.empty(n), np.empty(n)
    for k in np.unique(fold):
        teach, ask = fold != k, fold == k
        r[ask] = trees(x[teach], ((y - m) / away)[teach], (away**2)[teach], seed)(x[ask])
        dr[ask] = trees(x[teach], pseudo[teach], None, seed)(x[ask])
    return {"outcome": plain, "t_learner": mu[1] - mu[0], "r_learner": r, "dr_learner": dr}, pseudo


def trees(x: Floats, y: Floats, weight: Floats | None, seed: int, rounds: int = 80) -> Callable[[Floats], Floats]:
    """Boosted trees fitted to y (n,) on x (n, F) with these weights, as a function of other rows."""
    # Small and slow: an effect is a hundredth where an outcome is a tenth, and easily lost in what is not one.
    settings = {
        "objective": "regression",
        "learning_rate": 0.04,
        "num_leaves": 8,
        "min_data_in_leaf": max(len(y) // 50, 20),
        "lambda_l2": 10.0,
        "num_threads": 1,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
        "seed": seed,
    }
    trees = lightgbm.train(settings, lightgbm.Dataset(x, label=y, weight=weight), num_boost_round=rounds)
    return lambda there: np.asarray(trees.predict(there), np.float64)


def _gains(
    score: Floats, treated: NDArray[np.bool_], outcome: Floats, propensity: Floats, people: Floats
) -> tuple[Floats, Floats]:
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order]) != 0), len(score) - 1)
    t = treated[order].astype(np.float64) * people[order]
    c = (~treated[order]).astype(np.float64) * people[order]
    up, down = t / propensity[order], c / (1.0 - propensity[order])
    sums = [np.cumsum(values)[last] for values in (up * outcome[order], up, down * outcome[order], down, t + c)]
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = np.nan_to_num(sums[0] / sums[1]) - np.nan_to_num(sums[2] / sums[3])
    # Until both groups have been met there is nothing to compare.
    difference[(sums[1] == 0) | (sums[3] == 0)] = 0.0
    share = sums[4] / sums[4][-1]
    return np.concatenate([[0.0], share]), np.concatenate([[0.0], share * difference])


def _judge(
    scores: Mapping[str, Floats], trial: Trial, e: Floats, draws: int, rng: np.random.Generator
) -> dict[str, Uplift]:
    person = trial.persons
    count = int(person.max()) + 1
    people = rng.multinomial(count, np.full(count, 1.0 / count), size=draws).astype(np.float64)  # (draws, people)
    found: dict[str, tuple[Floats, Floats]] = {}
    again: dict[str, tuple[Floats, Floats]] = {}
    for name, score in scores.items():
        found[name] = gain_curve(score, trial.treated, trial.outcome, e)
        curves = [_gains(score, trial.treated, trial.outcome, e, row[person]) for row in people]
        again[name] = np.array([qini(*curve) for curve in curves]), np.array([area(*curve) for curve in curves])
    result = {}
    for name, (share, gain) in found.items():
        over = None
        if name != "outcome":
            value = qini(share, gain) - qini(*found["outcome"])
            over = value, *_between(again[name][0] - again["outcome"][0])
        result[name] = Uplift(
            qini=(qini(share, gain), *_between(again[name][0])),
            auuc=(area(share, gain), *_between(again[name][1])),
            over_outcome=over,
            curve=np.interp(np.linspace(0, 1, POINTS), share, gain),
        )
    return result


def _between(draws: Floats) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _overlap(trial: Trial, e: Floats, guessed: Floats) -> Overlap:
    t = trial.treated
    up, down = np.where(t, 1.0 / e, 0.0), np.where(t, 0.0, 1.0 / (1.0 - e))
    spread = np.maximum(trial.features.std(0), 1e-9)

    def imbalance(a: Floats, b: Floats) -> float:
        means = [np.average(trial.features, axis=0, weights=weights) for weights in (a, b)]
        return float(np.max(np.abs(means[0] - means[1]) / spread))

    return Overlap(
        known=trial.propensity is not None,
        auc=float(roc_auc_score(t, guessed)),
        least=float(e.min()),
        most=float(e.max()),
        extreme=float(np.mean((e < 0.05) | (e > 0.95))),
        ess=(float(up.sum() ** 2 / np.sum(up**2)), float(down.sum() ** 2 / np.sum(down**2))),
        imbalance=(imbalance(t.astype(np.float64), (~t).astype(np.float64)), imbalance(up, down)),
    )
