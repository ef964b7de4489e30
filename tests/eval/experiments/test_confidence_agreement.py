"""Agreement with spotify-confidence: numbers it gave, and, nightly, itself in an environment of its own.

python -m pytest tests/eval/experiments/test_confidence_agreement.py -m nightly -s
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import norm

from eval.experiments.effect import Effect, effect
from eval.experiments.metric import parse_metric
from eval.experiments.sample import sample_of

PEER = Path(__file__).with_name("confidence_peer.py")
PLACE = Path(__file__).resolve().parents[3] / "build" / "spotify-confidence"  # git leaves build/ alone
USERS = 3000

# What spotify-confidence 4.1.0 said of `data()`.
FROZEN = {
    "mean": {"difference": 0.1829582217272261, "ci_lower": 0.053441891945782416, "p-value": 0.005635717804884869},
    "cuped": {"difference": 0.13915016808838665, "ci_lower": 0.03950402259640515, "p-value": 0.006200642088376551},
    "non_inferiority": {"ci_lower": 0.07428664264550637, "p-value": 2.594679836550349e-06},
}


def data() -> pl.DataFrame:
    rng = np.random.default_rng(7)
    before = rng.gamma(2, 2, 2 * USERS)
    y = 0.6 * before + rng.normal(0, 2, 2 * USERS) + np.repeat([0, 0.12], USERS)
    arm = np.repeat(["control", "treatment"], USERS)
    return pl.DataFrame({"user_id": np.arange(2 * USERS), "arm": arm, "y": y, "before": before})


def agree(theirs: dict[str, dict[str, float]]) -> None:
    sample = sample_of(data(), "user_id", "arm")
    mean, cuped = (effect(sample, parse_metric(line), "treatment") for line in ("y", "y covariate=before"))
    assert (mean.diff, mean.lo, mean.p) == pytest.approx(
        (theirs["mean"]["difference"], theirs["mean"]["ci_lower"], theirs["mean"]["p-value"]), rel=1e-9
    )
    # Its CUPED is a z-test where ours is Welch's, and it divides the covariate's part of the variance by n where it
    # divides the metric's by n - 1: the same difference, and that standard error.
    assert cuped.diff == pytest.approx(theirs["cuped"]["difference"], rel=1e-9)
    mixed = np.sqrt(mean.se**2 - (mean.se**2 - cuped.se**2) * (USERS - 1) / USERS)
    assert mixed == pytest.approx((cuped.diff - theirs["cuped"]["ci_lower"]) / norm.isf(0.025), rel=1e-6)
    assert cuped.se == pytest.approx(mixed, rel=2e-4)
    assert 2 * norm.sf(cuped.diff / mixed) == pytest.approx(theirs["cuped"]["p-value"], rel=1e-6)
    # Its non-inferiority is one-sided, of a margin of 5% of the control's mean.
    assert one_sided(mean) == pytest.approx(theirs["non_inferiority"]["ci_lower"], rel=1e-6)
    z = (mean.diff + 0.05 * mean.control) / mean.se
    assert norm.sf(z) == pytest.approx(theirs["non_inferiority"]["p-value"], rel=1e-6)


def one_sided(found: Effect) -> float:
    return found.diff - float(norm.isf(0.05)) * found.se


def test_the_same_numbers_as_spotify_confidence_gave() -> None:
    agree(FROZEN)


@pytest.mark.nightly
def test_the_same_numbers_as_spotify_confidence_gives() -> None:
    python = PLACE / "bin" / "python"
    if not python.exists():
        uv = [sys.executable, "-m", "uv"]
        made = subprocess.run([*uv, "venv", "-q", "--python", sys.executable, PLACE], check=False)
        asked = [*uv, "pip", "install", "-q", "--python", python, "spotify-confidence"]
        if made.returncode or subprocess.run(asked, check=False).returncode:
            pytest.skip("spotify-confidence cannot be installed here")
    sums = (
        data()
        .group_by("arm", maintain_order=True)
        .agg(
            sum=pl.col("y").sum(),
            squares=pl.col("y").pow(2).sum(),
            users=pl.len(),
            covariate=pl.col("before").sum(),
            covariate_squares=pl.col("before").pow(2).sum(),
            cross=(pl.col("y") * pl.col("before")).sum(),
        )
    )
    done = subprocess.run([python, PEER], input=json.dumps(sums.to_dicts()), capture_output=True, text=True, check=True)
    theirs = json.loads(done.stdout)
    print(f"spotify-confidence {theirs['version']}: {done.stdout}")
    agree(theirs)
