"""Effects: agreement with other libraries, clustering, CUPED, and what may not matter."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lifelines import CoxPHFitter, KaplanMeierFitter
from lifelines.utils import restricted_mean_survival_time
from scipy import stats

from data.errors import InputError
from eval.experiments.effect import Reading, effect
from eval.experiments.metric import parse_metric
from eval.experiments.sample import Sample, per_user, sample_of
from eval.intervals import ratio_interval
from eval.survival import kaplan_meier
from tests.eval.experiments.made_up import experiment

SURVIVAL = "time kind=survival observed=back window=7"


def arm(sample: Sample, name: str) -> pl.DataFrame:
    return sample.rows.filter(pl.col("arm") == name)


def test_a_mean_is_welchs_test() -> None:
    sample = experiment(300, 0.4)
    found = effect(sample, parse_metric("y"), "treatment")
    welch = stats.ttest_ind(arm(sample, "treatment")["y"], arm(sample, "control")["y"], equal_var=False)
    interval = welch.confidence_interval()
    assert (found.p, found.lo, found.hi) == pytest.approx((welch.pvalue, interval.low, interval.high))


@pytest.mark.parametrize("line", ["y", "y kind=ratio per=x"])
def test_rows_of_one_user_are_clustered(line: str) -> None:
    """The same interval as eval.intervals' sandwich, but for its few-clusters correction and t."""
    sample = experiment(400, rows=6)
    found, halves = effect(sample, parse_metric(line), "treatment"), []
    for name in ("treatment", "control"):
        rows = arm(sample, name)
        below = rows["x"] if "per" in line else rows["y"] * 0 + 1
        halves.append(ratio_interval(rows["y"].to_numpy(), below.to_numpy(), rows["user_id"].to_numpy()))
    assert found.diff == pytest.approx(halves[0].value - halves[1].value)
    assert found.se == pytest.approx(np.hypot(halves[0].se, halves[1].se), rel=1e-6)
    naive = effect(sample_of(sample.rows.with_row_index("row"), "row", "arm"), parse_metric(line), "treatment")
    assert found.se > 1.5 * naive.se


def test_cuped_takes_away_the_squared_correlation_and_moves_the_value_little() -> None:
    sample = experiment(4000, 0.3, correlation=0.8)
    plain = effect(sample, parse_metric("y"), "treatment")
    found = effect(sample, parse_metric("y covariate=before"), "treatment")
    assert found.variance_reduction == pytest.approx(0.64, abs=0.03)
    assert found.se == pytest.approx(plain.se * 0.6, rel=0.04)
    assert abs(found.diff - 0.3) < 3 * found.se
    design = np.column_stack(
        [np.ones(4000), (sample.rows["arm"] == "treatment").to_numpy(), sample.rows["before"].to_numpy()]
    )
    slope = np.linalg.lstsq(design, sample.rows["y"].to_numpy(), rcond=None)[0][1]
    assert found.diff == pytest.approx(slope, abs=0.2 * found.se)  # regression adjusts alike


@pytest.mark.parametrize("estimand", ["rmst", "survival"])
def test_survival_agrees_with_lifelines_and_its_clustered_error_with_kaplan_meier(estimand: str) -> None:
    sample = experiment(600, rows=2, seed=3)
    found = effect(sample, parse_metric(f"{SURVIVAL} estimand={estimand}"), "treatment")
    for name, value in (("control", found.control), ("treatment", found.treatment)):
        rows = arm(sample, name)
        fitted = KaplanMeierFitter().fit(rows["time"].to_numpy(), rows["back"].to_numpy())
        theirs = restricted_mean_survival_time(fitted, 7) if estimand == "rmst" else fitted.predict(7)
        assert value == pytest.approx(theirs)
    if estimand == "survival":
        errors = []
        for name in ("control", "treatment"):
            rows = arm(sample, name)
            curve = kaplan_meier(rows["time"].to_numpy(), rows["back"].to_numpy(), rows["user_id"].to_numpy())
            k = int(np.searchsorted(curve.times, 7, side="right")) - 1
            # Its interval is on log(-log S): reach = exp(t se / |log S|).
            lo, value = curve.lo[k], curve.survival[k]
            reach = np.log(np.log(lo) / np.log(value)) * abs(np.log(value))
            errors.append(value * reach / stats.t.ppf(0.975, curve.clusters - 1))
        assert found.se == pytest.approx(np.hypot(*errors), rel=1e-3)


def test_restricted_mean_has_the_known_error_without_censoring() -> None:
    """Without censoring the restricted mean is the mean of min(time, window)."""
    sample = experiment(500, seed=4)
    rows = sample.rows.with_columns(time=pl.col("time") + 0.5, back=pl.lit(True)).with_columns(
        capped=pl.col("time").clip(upper_bound=7.0)
    )
    full = sample_of(rows, "user_id", "arm")
    survival = effect(full, parse_metric(SURVIVAL), "treatment")
    mean = effect(full, parse_metric("capped"), "treatment")
    assert (survival.diff, survival.se, survival.p) == pytest.approx((mean.diff, mean.se, mean.p), rel=1e-9)


def test_hazard_ratio_is_lifelines_cox_clustered_by_user() -> None:
    sample = experiment(300, rows=2, seed=5)
    found = effect(sample, parse_metric(f"{SURVIVAL} estimand=hazard_ratio"), "treatment")
    frame = sample.rows.select(
        "user_id",
        treated=(pl.col("arm") == "treatment").cast(pl.Float64),
        time=pl.col("time").clip(upper_bound=7.0),
        back=pl.col("back") & (pl.col("time") <= 7.0),
    ).to_pandas()
    fitted = CoxPHFitter().fit(frame, "time", "back", cluster_col="user_id")
    assert found.diff == pytest.approx(fitted.params_["treated"])
    assert found.se == pytest.approx(fitted.standard_errors_["treated"])


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_the_order_of_rows_and_the_names_of_users_change_nothing(seed: int) -> None:
    sample = experiment(60, 0.5, rows=2)
    rng = np.random.default_rng(seed)
    names = sample.rows["user_id"].unique(maintain_order=True).to_list()
    renamed = dict(zip(names, rng.permutation(names).tolist(), strict=True))
    other = sample.rows[rng.permutation(sample.rows.height)].with_columns(pl.col("user_id").replace_strict(renamed))
    for line in ("y covariate=before", "y kind=ratio per=x", SURVIVAL):
        metric = parse_metric(line)
        ours = effect(sample, metric, "treatment")
        theirs = effect(sample_of(other, "user_id", "arm"), metric, "treatment")
        assert (ours.diff, ours.lo, ours.hi, ours.p) == pytest.approx(
            (theirs.diff, theirs.lo, theirs.hi, theirs.p), rel=1e-9, abs=1e-12
        )


def test_p_values_of_experiments_without_an_effect_are_uniform() -> None:
    lines = ["y covariate=before", "y kind=ratio per=x", f"{SURVIVAL} estimand=rmst"]
    p = {line: [] for line in lines}
    for seed in range(45):
        sample = experiment(160, rows=2, seed=seed)
        for line in lines:
            p[line].append(effect(sample, parse_metric(line), "treatment").p)
    for line, values in p.items():
        assert stats.kstest(values, "uniform").pvalue > 0.005, line


def test_what_is_not_known_yet_is_left_out_and_counted() -> None:
    sample = experiment(200)
    rows = sample.rows.with_columns(y=pl.when(pl.col("before") > 9).then("y"))
    found = effect(sample_of(rows, "user_id", "arm"), parse_metric("y"), "treatment")
    assert found.users + found.unknown == 200
    assert found.unknown == rows["y"].null_count() > 0


def test_new_users_without_a_covariate_get_the_mean() -> None:
    sample = experiment(200)
    rows = sample.rows.with_columns(before=pl.when(pl.col("before") > 8).then("before"))
    users = per_user(sample_of(rows, "user_id", "arm"), parse_metric("y covariate=before"))
    assert users.height == 200
    assert users["covariate"].null_count() == 0


def broken(**columns: pl.Expr) -> pl.DataFrame:
    return experiment(40, rows=2).rows.with_columns(**columns)


@pytest.mark.parametrize(
    ("rows", "line", "says"),
    [
        (broken(y=pl.lit(float("nan"))), "y", "is nan in row 0"),
        (broken(y=pl.lit("much")), "y", "must hold numbers"),
        (broken(), "z", "no column 'z'"),
        (broken(y=pl.lit(1.0)), "y", "does not vary"),
        (broken(x=pl.lit(0.0)), "y kind=ratio per=x", "sums to zero"),
        (broken(x=-pl.col("x")), "y kind=ratio per=x", "below zero"),
        (broken(before=pl.col("y")), "y covariate=before", "differs between rows of one user"),
        (broken(y=pl.lit(None, pl.Float64)), "y", "0 users for whom it is known"),
        (broken(time=-pl.col("time")), SURVIVAL, "none below zero"),
        (broken(back=pl.lit(2)), SURVIVAL, "true or false"),
        (broken(), SURVIVAL.replace("=7", "=700"), "nobody was followed for 700"),
        (broken(back=pl.lit(False)), SURVIVAL + " estimand=hazard_ratio", "no event in the control arm"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_bad_values_are_one_clear_error(rows: pl.DataFrame, line: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        effect(sample_of(rows, "user_id", "arm"), parse_metric(line), "treatment")


@pytest.mark.parametrize(
    ("rows", "named", "says"),
    [
        (broken(arm=pl.lit("control")), None, "one arm only"),
        (broken().head(0), None, "the table has no rows"),
        (broken(arm=pl.lit(None, pl.String)), None, "is empty in row 0"),
        (broken(user_id=pl.lit("me")), None, "users are in two arms"),
        (broken(user_id=pl.col("arm")), None, "has 1 user; a variance"),
        (broken(), ["control", "treatment", "third"], "arm 'third' has no users"),
        (broken(), ["control"], "in the table but not in the shares"),
        (broken().drop("arm"), None, "no column 'arm'"),
    ],
)
def test_bad_arms_are_one_clear_error(rows: pl.DataFrame, named: list[str] | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        sample_of(rows, "user_id", "arm", arms=named)


def test_settings_outside_their_range_are_refused() -> None:
    with pytest.raises(InputError, match="alpha is 2"):
        Reading(alpha=2)
    with pytest.raises(InputError, match="planned_users is 10"):
        Reading(planned_users=10)


@pytest.mark.parametrize("line", ["y", "y covariate=before", "y kind=ratio per=x"])
def test_a_value_next_to_zero_has_a_difference_and_no_relative_change(line: str) -> None:
    sample, metric = experiment(400, 0.3), parse_metric(line)
    bottom = pl.col("x") if metric.kind == "ratio" else pl.lit(1.0)
    far = effect(sample, metric, "treatment")
    moved = sample.rows.with_columns(y=pl.col("y") - float(far.control - 1e-6) * bottom)
    near = effect(Sample(moved, sample.user, sample.arm, sample.arms), metric, "treatment")
    assert near.control == pytest.approx(1e-6, abs=1e-7)
    assert (near.diff, near.lo, near.hi, near.p) == pytest.approx((far.diff, far.lo, far.hi, far.p), rel=1e-6)
    assert near.relative is None and near.rel_lo is None
