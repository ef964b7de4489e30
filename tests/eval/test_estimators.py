"""Off-policy estimators: theory, a public sample, coverage, and bad input."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from data.errors import InputError
from eval.estimators import point_and_influence
from eval.intervals import cluster_codes, from_influence
from eval.off_policy import OffPolicySettings, off_policy_value
from eval.rounds import Columns, LoggedRounds, checked_columns
from eval.weights import effective

ALL = ("ips", "snips", "clipped", "dm", "dr", "sndr")

# Open Bandit, campaign "all": Beta(alpha, beta) that the logged Thompson sampling started from, as published with the
# Open Bandit Pipeline (Saito et al. 2021, prior of the production policy; item 0 first). Needed to know the policy.
ALPHA = [
    47, 8, 62, 142, 3, 14, 7, 857, 12, 15, 6, 100, 48, 23, 71, 61, 13, 16, 518, 30, 7, 4, 23, 8, 10, 11, 11, 18, 121,
    11, 11, 10, 14, 9, 204, 58, 3, 19, 42, 1013, 2, 328, 15, 31, 14, 138, 45, 55, 23, 38, 10, 401, 52, 6, 3, 6, 5, 32,
    35, 133, 52, 820, 43, 195, 8, 42, 40, 4, 32, 30, 9, 22, 6, 23, 5, 54, 8, 22, 65, 246,
]  # fmt: skip
BETA = [
    12198, 3566, 15993, 35522, 2367, 4609, 3171, 181745, 4372, 4951, 3100, 24665, 13210, 7061, 18061, 17449, 5644,
    6787, 111326, 8776, 3334, 2271, 7389, 2659, 3665, 4724, 3561, 5085, 27407, 4601, 4756, 4120, 4736, 3788, 45292,
    14719, 2189, 5589, 11995, 222255, 2308, 70034, 4801, 8274, 5421, 31912, 12213, 13576, 6230, 10382, 4141, 85731,
    12811, 2707, 2250, 2668, 2886, 9581, 9465, 28336, 12062, 162793, 12107, 41240, 3162, 11604, 10818, 2923, 8897,
    8654, 4000, 6580, 3174, 6766, 2602, 14506, 3968, 7523, 16532, 51964,
]  # fmt: skip


def thompson_top(places: int, draws: int, seed: int) -> NDArray[np.float64]:
    """P(item at place) (80, places) under Thompson sampling from the published prior, by simulation."""
    rng = np.random.default_rng(seed)
    counts = np.zeros((len(ALPHA), places))
    for _ in range(draws // 10_000):
        best = np.argsort(-rng.beta(ALPHA, BETA, size=(10_000, len(ALPHA))), axis=1)[:, :places]
        for place in range(places):
            counts[:, place] += np.bincount(best[:, place], minlength=len(ALPHA))
    return counts / draws


def cross_fitted_click_rate(
    context: pl.DataFrame, features: NDArray[np.float64], item: NDArray[np.int64], click: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Logistic click rate of every item in every round, (rounds, items), each round by a fit that did not see it."""
    x = context.to_numpy().astype(float)
    q = np.zeros((click.size, features.shape[0]))
    for train, test in KFold(3, shuffle=True, random_state=12345).split(x):
        fit = LogisticRegression(C=1.0, max_iter=5000).fit(np.hstack([x[train], features[item[train]]]), click[train])
        of_context, of_item = np.split(fit.coef_[0], [x.shape[1]])
        q[test] = expit((x[test] @ of_context)[:, None] + features @ of_item + fit.intercept_)
    return q


def test_open_bandit_sample_gives_the_published_values(real_logs: Path) -> None:
    """Uniform log -> Bernoulli Thompson sampling, campaign "all" (REFERENCE.md)."""
    log = pl.read_parquet(
        real_logs / "open_bandit_small" / "random_all.parquet",
        columns=["item_id", "position", "click", "propensity_score", *(f"user_feature_{i}" for i in range(4))],
    )
    item, place = log["item_id"].cast(pl.Int64).to_numpy(), log["position"].cast(pl.Int64).to_numpy() - 1
    click = log["click"].to_numpy().astype(float)
    target = thompson_top(places=3, draws=100_000, seed=0)
    catalog = pl.read_parquet(real_logs / "open_bandit_small" / "item_context_all.parquet").sort("item_id")
    features = np.column_stack(
        [
            catalog["item_feature_0"].to_numpy(),
            *(catalog[f"item_feature_{i}"].rank("dense").cast(pl.Float64).to_numpy() for i in (1, 2, 3)),
        ]
    )
    q = cross_fitted_click_rate(log.select("^user_feature_.*$").to_dummies(drop_first=True), features, item, click)
    rounds = LoggedRounds(
        log_p_log=np.log(log["propensity_score"].to_numpy()),
        log_p_new=np.log(np.maximum(target[item, place], 1e-12)),
        reward=click,
        user=np.arange(click.size),
        q=q[np.arange(click.size), item],
        v=(q * target[:, place].T).sum(axis=1),
    )
    columns = checked_columns(rounds)
    values = {name: point_and_influence(name, columns)[0] for name in ALL}
    assert values["ips"] == pytest.approx(0.00457, abs=1.5e-5)
    assert values["snips"] == pytest.approx(0.00479, abs=1.5e-5)
    # Which click model stands behind DR moves its last digit (.00473 to .00483 over a dozen plain ones).
    assert values["dr"] == pytest.approx(0.00478, abs=5e-5)
    # The published DRos is that of the pipeline's default shrinkage, all the way to the model.
    assert point_and_influence("dros", columns, 1e-9)[0] == pytest.approx(0.00376, abs=5e-5)
    assert effective(columns.w) == pytest.approx(1641, rel=0.01)
    result = off_policy_value(rounds, OffPolicySettings())
    own_mean = 0.0042  # the target policy's click rate on its own log
    estimate = result.estimates["dr"]
    assert estimate.lo is not None
    assert estimate.hi is not None
    assert estimate.lo < own_mean < estimate.hi


def small_bandit(
    rng: np.random.Generator, users: int, rounds: int, user_effect: float = 0.0
) -> tuple[LoggedRounds, float]:
    """A log over 5 actions with known value of the new policy; q is off by a constant factor on purpose."""
    n = users * rounds
    user = np.repeat(np.arange(users), rounds)
    value = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    p_log = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
    p_new = np.array([0.1, 0.15, 0.2, 0.25, 0.3])
    action = rng.choice(5, size=n, p=p_log)
    reward = value[action] + np.repeat(rng.normal(size=users), rounds) * user_effect + rng.normal(size=n) * 0.5
    return (
        LoggedRounds(
            log_p_log=np.log(p_log[action]),
            log_p_new=np.log(p_new[action]),
            reward=reward,
            user=user,
            q=0.7 * value[action],
            v=np.full(n, 0.7 * float(p_new @ value)),
        ),
        float(p_new @ value),
    )


def test_the_logging_policy_itself_is_worth_its_mean_reward() -> None:
    log, _ = small_bandit(np.random.default_rng(0), 500, 4)
    same = LoggedRounds(log.log_p_log, np.asarray(log.log_p_log), log.reward, log.user)
    result = off_policy_value(same, OffPolicySettings())
    for name in ("ips", "snips", "clipped"):
        estimate = result.estimates[name]
        assert estimate.value == pytest.approx(float(np.mean(log.reward)))
        assert estimate.diff == pytest.approx(0.0, abs=1e-12)
        assert estimate.diff_hi == pytest.approx(0.0, abs=1e-9)
    assert result.support.ess == pytest.approx(2000)
    assert result.support.ess_users == pytest.approx(500)


def test_estimators_but_the_biased_model_find_the_true_value() -> None:
    rng = np.random.default_rng(1)
    values: dict[str, list[float]] = {name: [] for name in ALL}
    for _ in range(60):
        log, truth = small_bandit(rng, 500, 4)
        for name in ALL:
            values[name].append(point_and_influence(name, checked_columns(log))[0])
    for name in ("ips", "snips", "dr", "sndr"):
        assert np.mean(values[name]) == pytest.approx(truth, abs=0.01), name
    assert np.mean(values["dm"]) == pytest.approx(0.7 * truth, abs=0.01)
    assert np.std(values["dr"]) < np.std(values["ips"])


def test_doubly_robust_is_exact_under_a_perfect_model_whatever_the_weights() -> None:
    rng = np.random.default_rng(2)
    n = 1000
    q = rng.uniform(size=n)
    columns = Columns(w=rng.exponential(size=n), r=q.copy(), q=q, v=np.full(n, 0.4))
    assert point_and_influence("dr", columns)[0] == pytest.approx(0.4)
    assert point_and_influence("sndr", columns)[0] == pytest.approx(0.4)


def test_clustered_snips_interval_covers_at_its_nominal_rate() -> None:
    """n = 5000 in rounds of 25 a user with a user effect: only the clustered interval covers (REFERENCE.md)."""
    rng = np.random.default_rng(3)
    clustered = naive = 0
    runs = 300
    for _ in range(runs):
        log, truth = small_bandit(rng, users=200, rounds=25, user_effect=0.5)
        value, influence = point_and_influence("snips", checked_columns(log))
        for user in (log.user, np.arange(5000)):
            codes, clusters = cluster_codes(user, 5000)
            interval = from_influence(value, influence, codes, clusters)
            covers = interval.lo <= truth <= interval.hi
            if clusters == 200:
                clustered += covers
            else:
                naive += covers
    assert 0.915 <= clustered / runs <= 0.98
    assert naive / runs < 0.85


def test_values_do_not_depend_on_row_order() -> None:
    log, _ = small_bandit(np.random.default_rng(4), 400, 5)
    order = np.random.default_rng(5).permutation(2000)
    assert log.log_p_log is not None
    assert log.q is not None
    assert log.v is not None
    mixed = LoggedRounds(
        log.log_p_log[order], log.log_p_new[order], log.reward[order], log.user[order], log.q[order], log.v[order]
    )
    a, b = off_policy_value(log, OffPolicySettings()), off_policy_value(mixed, OffPolicySettings())
    for name in ALL:
        assert a.estimates[name].hi == pytest.approx(b.estimates[name].hi)


def test_no_modelled_reward_leaves_the_model_estimators_out() -> None:
    log, _ = small_bandit(np.random.default_rng(6), 300, 2)
    result = off_policy_value(LoggedRounds(log.log_p_log, log.log_p_new, log.reward, log.user), OffPolicySettings())
    assert set(result.estimates) == {"ips", "snips", "clipped"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"log_p_log": np.log(2.0) * np.ones(600)}, "log_p_log.*row 0"),
        ({"log_p_log": np.full(600, -np.inf)}, "propensity 0"),
        ({"log_p_log": np.where(np.arange(600) == 3, np.nan, -1.0)}, "row 3.*in every row or in none"),
        ({"log_p_new": np.where(np.arange(600) == 7, np.nan, -1.0)}, "log_p_new.*row 7"),
        ({"log_p_new": np.zeros(599)}, "599"),
        ({"reward": np.where(np.arange(600) == 9, np.inf, 0.0)}, "reward.*row 9"),
        ({"user": np.zeros(600)}, "two users"),
        ({"user": np.arange(599)}, "one cluster"),
        ({"q": np.zeros(3)}, "q: 3 values"),
        ({"log_p_log": np.full(600, -1e6)}, "overflow"),
    ],
)
def test_bad_columns_are_one_clear_line(change: dict[str, NDArray[np.float64]], words: str) -> None:
    log, _ = small_bandit(np.random.default_rng(7), 300, 2)
    columns = {**log.__dict__, **change}
    with pytest.raises(InputError, match=words) as raised:
        off_policy_value(LoggedRounds(**columns), OffPolicySettings())
    assert "\n" not in str(raised.value)
