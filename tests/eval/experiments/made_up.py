"""Experiments made up for the tests."""

import numpy as np
import polars as pl

from eval.experiments.sample import Sample, sample_of


def experiment(users: int = 400, effect: float = 0.0, seed: int = 0, rows: int = 1, correlation: float = 0.6) -> Sample:
    """Users in two equal arms, `rows` rows each: y (moved by `effect`), x (its denominator), before (its covariate)."""
    rng = np.random.default_rng(seed)
    before = rng.normal(10, 2, users)
    own = 5 + correlation * (before - 10) + rng.normal(0, 2 * np.sqrt(1 - correlation**2), users)
    treated = rng.permutation(np.arange(users) % 2)
    who = np.repeat(np.arange(users), rows)
    time = rng.exponential(5, users * rows)
    follow = rng.uniform(8, 20, users * rows)
    frame = pl.DataFrame(
        {
            "user_id": [f"u{i}" for i in who],
            "arm": np.where(treated[who] == 1, "treatment", "control"),
            "y": own[who] + effect * treated[who] + rng.normal(0, 1, users * rows) * (rows > 1),
            "x": 1.0 + rng.poisson(3, users * rows),
            "before": before[who],
            "time": np.minimum(time, follow),
            "back": time <= follow,
        }
    )
    return sample_of(frame, "user_id", "arm", "control")
