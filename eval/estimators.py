"""The off-policy estimators: the one place where each is named, with its formula, assumption and paper.

Every one of them is a sum of ratios of sums over rounds, sum_j (sum_i top_ij / sum_i bottom_ij), so that its value, its
influence function, its bootstrap and a pass over blocks of a log all need the same few sums (eval/intervals.py). With
w = p_new / p_log of the whole slate, and r, q, v as in `LoggedRounds`:

    ips        mean(w r)                          Horvitz & Thompson 1952
    snips      sum(w r) / sum(w)                  Swaminathan & Joachims 2015, eq. 9
    clipped    mean(min(w, c) r)                  Ionides 2008
    dm         mean(v)                            the direct method
    dr         mean(v + w (r - q))                Dudik et al. 2011, eq. 6
    sndr       mean(v) + sum(w (r - q)) / sum(w)  Thomas & Brunskill 2016, one step

and so on: `ESTIMATORS` has them all. A hyperparameter has a grid; `eval/slope.py` chooses from it by the log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from data.errors import InputError
from eval.intervals import Floats, ratios_of_sums
from eval.rounds import Columns

Ratio = tuple[Floats, Floats | None]  # top and bottom (n,); None is a bottom of ones, the number of rounds
Terms = Callable[[Columns, float], Sequence[Ratio]]

WEIGHT_GRID = (float("inf"), 1000.0, 200.0, 50.0, 20.0, 10.0, 5.0, 2.0)
SHRINK_GRID = (float("inf"), 1e6, 1e5, 1e4, 1e3, 100.0, 10.0, 1.0)
POWER_GRID = (0.0, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True)
class Estimator:
    """One estimator.

    formula, paper, assumption: in words, for people. family: the weights it stands on (`Columns.weights`), whose
    support decides whether it is answered. needs: columns that must be there. terms: the ratios whose sum it is.
    grid: values of its hyperparameter from none (unbiased) to the strongest; default: what to use untuned, given n.
    """

    name: str
    formula: str
    assumption: str
    paper: str
    terms: Terms
    family: str = "slate"
    needs: tuple[str, ...] = ()
    grid: tuple[float, ...] = ()
    default: Callable[[int], float] = lambda n: float("inf")


def _corrected(c: Columns, w: Floats) -> Sequence[Ratio]:
    """v + w (r - q), for whichever weight."""
    return [(_column(c.v) + w * (c.r - _column(c.q)), None)]


def _sndr(c: Columns, _: float) -> Sequence[Ratio]:
    return [(_column(c.v), None), (c.w * (c.r - _column(c.q)), c.w)]


def _switch(c: Columns, most: float) -> Sequence[Ratio]:
    return _corrected(c, np.where(c.w <= most, c.w, 0.0))


def _shrunk(c: Columns, most: float) -> Sequence[Ratio]:
    return _corrected(c, c.w if np.isinf(most) else c.w * (most / (c.w * c.w + most)))


def _sub_gaussian(c: Columns, power: float) -> Sequence[Ratio]:
    return _corrected(c, c.w / (1.0 - power + power * c.w))


def _independent(c: Columns, _: float) -> Sequence[Ratio]:
    return [((_column(c.positions) * _column(c.position_reward)).sum(axis=1), None)]


def _rips(c: Columns, _: float) -> Sequence[Ratio]:
    return [((_column(c.prefixes) * _column(c.position_reward)).sum(axis=1), None)]


def _cascade(c: Columns, _: float) -> Sequence[Ratio]:
    w = _column(c.prefixes)
    before = np.concatenate([np.ones((len(w), 1)), w[:, :-1]], axis=1)
    by_position = w * (_column(c.position_reward) - _column(c.position_q)) + before * _column(c.position_v)
    return [(by_position.sum(axis=1), None)]


def _column(values: Floats | None) -> Floats:
    if values is None:
        raise InputError("estimator: a column that it needs is missing")
    return values


SLATE = "the log's probabilities are right and it now and then shows every slate that the new policy shows"
MODEL = f"{SLATE}; or the outcome model is right"

ALL = (
    Estimator("ips", "mean(w r)", SLATE, "Horvitz & Thompson 1952", lambda c, _: [(c.w * c.r, None)]),
    Estimator(
        "snips", "sum(w r) / sum(w)", SLATE, "Swaminathan & Joachims 2015, eq. 9", lambda c, _: [(c.w * c.r, c.w)]
    ),
    Estimator(
        "clipped",
        "mean(min(w, c) r)",
        f"{SLATE}; weights above c carry little",
        "Ionides 2008 (c by SLOPE, Su et al. 2020; untuned sqrt(n))",
        lambda c, most: [(np.minimum(c.w, most) * c.r, None)],
        grid=WEIGHT_GRID,
        default=lambda n: float(np.sqrt(n)),
    ),
    Estimator("dm", "mean(v)", "the outcome model is right", "direct method", lambda c, _: [(_column(c.v), None)],
              needs=("q", "v")),
    Estimator("dr", "mean(v + w (r - q))", MODEL, "Dudik et al. 2011, eq. 6", lambda c, _: _corrected(c, c.w),
              needs=("q", "v")),
    Estimator("sndr", "mean(v) + sum(w (r - q)) / sum(w)", MODEL, "Thomas & Brunskill 2016 (WDR, one step)", _sndr,
              needs=("q", "v")),
    Estimator(
        "switch_dr", "mean(v + w [w <= t] (r - q))", f"{MODEL}; where w > t the model's word is taken",
        "Wang, Agarwal & Dudik 2017", _switch, needs=("q", "v"), grid=WEIGHT_GRID,
        default=lambda n: float(np.sqrt(n)),
    ),
    Estimator(
        "dros", "mean(v + l w / (w^2 + l) (r - q))", f"{MODEL}; large weights shrink towards the model",
        "Su, Dimakopoulou, Krishnamurthy & Dudik 2020", _shrunk, needs=("q", "v"), grid=SHRINK_GRID,
        default=float,
    ),
    Estimator(
        "sgdr", "mean(v + w / (1 - l + l w) (r - q))", f"{MODEL}; large weights shrink towards the model",
        "Metelli, Russo & Restelli 2021, harmonic correction", _sub_gaussian, needs=("q", "v"), grid=POWER_GRID,
        default=lambda n: 1.0 / float(np.sqrt(n)),
    ),
    Estimator(
        "mips", "mean(p_new(e|x) / p_log(e|x) r)",
        "an action acts only through its embedding e, and the log shows every e that the new policy shows",
        "Saito & Joachims 2022", lambda c, _: [(_column(c.embedding) * c.r, None)],
        family="embedding", needs=("embedding",),
    ),
    Estimator(
        "offcem", "mean(v + p_new(c|x) / p_log(c|x) (r - q))",
        "within a cluster c of actions the model ranks rightly; the log shows every cluster that the new policy shows",
        "Saito, Ren & Joachims 2023", lambda c, _: _corrected(c, _column(c.embedding)),
        family="embedding", needs=("embedding", "q", "v"),
    ),
    Estimator(
        "lope", "mean(v + p_new(s|x) / p_log(s|x) (r - q))",
        "given context and short-term outcome s, what is left of the action's effect is in the model q",
        "Saito et al. 2024", lambda c, _: _corrected(c, _column(c.surrogate)),
        family="surrogate", needs=("surrogate", "q", "v"),
    ),
    Estimator(
        "surrogate", "mean(w g(x, s)); w = 1 in an experiment of the new policy",
        "an action acts on the long term only through the short-term outcome s (surrogacy)",
        "Athey, Chetty, Imbens & Kang 2019", lambda c, _: [(c.w * _column(c.index), None)], needs=("index",),
    ),
    Estimator(
        "independent", "mean(sum_l w_l r_l), w_l of position l alone",
        "a position's outcome depends on its own item only",
        "Li et al. 2018, item-position model", _independent, family="positions",
        needs=("positions", "position_reward"),
    ),
    Estimator(
        "rips", "mean(sum_l w_1:l r_l), w_1:l of the first l items",
        "a position's outcome depends on the items down to it (cascade)",
        "McInerney et al. 2020", _rips, family="prefixes", needs=("prefixes", "position_reward"),
    ),
    Estimator(
        "cascade_dr", "mean(sum_l w_1:l (r_l - q_l) + w_1:l-1 v_l)",
        "a position's outcome depends on the items down to it (cascade), or the models q_l are right",
        "Kiyohara et al. 2022", _cascade, family="prefixes",
        needs=("prefixes", "position_reward", "position_q", "position_v"),
    ),
    Estimator(
        "pi", "mean(W r), W = 1 + sum_l (w_l - 1)",
        "the outcome is a sum of effects of single positions; logging drew positions nearly independently",
        "Swaminathan et al. 2017 (pseudo-inverse)", lambda c, _: [(_column(c.additive) * c.r, None)],
        family="additive", needs=("positions",),
    ),
    Estimator(
        "sn_pi", "sum(W r) / sum(W), W = 1 + sum_l (w_l - 1)",
        "the outcome is a sum of effects of single positions; logging drew positions nearly independently",
        "Swaminathan et al. 2017 (pseudo-inverse), self-normalised",
        lambda c, _: [(_column(c.additive) * c.r, _column(c.additive))], family="additive", needs=("positions",),
    ),
    Estimator(
        "pi_dr", "mean(v + W (r - q)), W = 1 + sum_l (w_l - 1)",
        "what the model leaves of the outcome is a sum of effects of single positions; logging drew positions nearly "
        "independently",
        "Vlassis et al. 2021 (pseudo-inverse with a control variate)",
        lambda c, _: _corrected(c, _column(c.additive)), family="additive", needs=("positions", "q", "v"),
    ),
)  # fmt: skip
ESTIMATORS: Mapping[str, Estimator] = MappingProxyType({estimator.name: estimator for estimator in ALL})


def estimator_named(name: str) -> Estimator:
    """The estimator of that name; raises InputError listing those there are."""
    if name not in ESTIMATORS:
        raise InputError(f"estimator {name!r} is not known; choose among {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]


def point_and_influence(name: str, columns: Columns, parameter: float | None = None) -> tuple[float, Floats]:
    """Value of the named estimator and its influence values (n,), without any verdict on support.

    parameter: of an estimator that has one; its untuned default otherwise. Raises InputError for an unknown estimator
    and for columns that it needs and that are not there.
    """
    estimator = estimator_named(name)
    if not columns.has(estimator.needs):
        lacking = ", ".join(need for need in estimator.needs if getattr(columns, need) is None)
        raise InputError(f"estimator {name}: needs the columns {', '.join(estimator.needs)}; {lacking} is missing")
    n = columns.r.size
    ratios = estimator.terms(columns, estimator.default(n) if parameter is None else parameter)
    sums = np.stack([part for top, bottom in ratios for part in (top, np.ones(n) if bottom is None else bottom)], 1)
    value, influence = ratios_of_sums(sums)
    return value, influence * n
