"""What an operator sees: drift where there is some, and a dashboard and alerts that ask for metrics that exist."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import generate_latest

import policy.serving
from policy.serving.drift import LEAST, Watch, entropy, psi
from policy.serving.metrics import Metrics

MONITORING = Path(policy.serving.__file__).parent / "monitoring"


def test_psi_is_small_for_the_same_distribution_and_what_theory_says_for_a_shifted_one() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=20_000)

    same = psi(reference.tolist(), rng.normal(size=20_000).tolist())
    shifted = psi(reference.tolist(), rng.normal(1.0, 1.0, size=20_000).tolist())

    assert same is not None and same < 0.005
    # Over ever finer bins PSI is the symmetric divergence, (mean shift / sd)^2 = 1; deciles see most of it.
    assert shifted is not None and 0.85 < shifted < 1.0
    assert psi(reference.tolist(), [0.0] * (LEAST - 1)) is None


@given(
    st.lists(st.floats(-5, 5), min_size=LEAST, max_size=150), st.lists(st.floats(-5, 5), min_size=LEAST, max_size=150)
)
@settings(max_examples=30, deadline=None)
def test_psi_is_finite_never_negative_and_zero_against_itself(one: list[float], other: list[float]) -> None:
    assert psi(one, one) == pytest.approx(0)
    index = psi(one, other)
    assert index is not None and math.isfinite(index) and index >= 0


def test_entropy_is_the_log_of_as_many_equal_items() -> None:
    assert entropy(Counter(dict.fromkeys(range(8), 5))) == pytest.approx(math.log(8))
    assert entropy(Counter()) == entropy(Counter([1, 1])) == 0


def test_a_window_sees_drift_coverage_and_entropy_by_arm() -> None:
    watch, rng = Watch(window=500), np.random.default_rng(1)
    watch.references["ppo@1"] = {"log_propensity": rng.normal(-3, 0.5, size=500).tolist()}
    for number in range(600):
        watch.see("ppo@1", "ppo", (number % 4, 9), math.exp(2 * rng.normal(-3, 0.5)))
    before = watch.drift()["ppo@1", "log_propensity"]
    for _ in range(500):
        watch.see("ppo@1", "ppo", (1, 9), math.exp(2 * rng.normal(-4.5, 0.5)))

    assert before < 0.1
    assert watch.drift()["ppo@1", "log_propensity"] > 1
    assert watch.coverage(20) == 2 / 20
    assert watch.entropies() == {"ppo": pytest.approx(math.log(2))}


def test_dashboard_and_alerts_ask_for_metrics_that_there_are() -> None:
    metrics = Metrics()
    known = set(re.findall(r"^# TYPE (\S+)", generate_latest(metrics.registry).decode(), re.MULTILINE))
    known |= {f"{name}_bucket" for name in known}
    board = json.loads((MONITORING / "grafana.json").read_text())
    rules = [
        rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
    ]
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]] + [
        rule["expr"] for rule in rules
    ]

    for expression in asked:
        names = set(re.findall(r"longplay_\w+", expression))
        assert names and names <= known, expression
    assert all(rule["labels"]["severity"] in ("page", "ticket") and rule["annotations"]["summary"] for rule in rules)
    shown = {name for target in asked for name in re.findall(r"longplay_\w+", target)}
    assert {name for name in known if name.endswith("_total")} <= shown
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len(set(places)) == len(places)
