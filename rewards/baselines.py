"""What people use today, in the same harness: counting features into a logistic regression or into boosted trees.

The trees are scikit-learn's histogram gradient boosting, the same family as LightGBM without its need of a system
OpenMP library. Both are fitted on the rows our heads are fitted on and judged on the rows ours are judged on.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from rewards.recency import COLUMNS

RECENCY_FREQUENCY = tuple(COLUMNS.index(name) for name in ("log_gap_hours", "log_interactions", "log_interactions_28d"))

# train features (n, F), train share (n,) in [0, 1], binary?, test features (m, F), seed -> predicted share (m,)
Baseline = Callable[[np.ndarray, np.ndarray, bool, np.ndarray, int], np.ndarray]


def recency_frequency(train: np.ndarray, share: np.ndarray, binary: bool, test: np.ndarray, seed: int) -> np.ndarray:
    """Logistic regression (least squares for a count) on recency and frequency alone."""
    columns = list(RECENCY_FREQUENCY)
    if binary:
        model = make_pipeline(StandardScaler(), LogisticRegression(random_state=seed))
        probability: np.ndarray = model.fit(train[:, columns], share > 0.5).predict_proba(test[:, columns])[:, 1]
        return probability
    line = make_pipeline(StandardScaler(), Ridge(1.0)).fit(train[:, columns], share)
    expected: np.ndarray = np.clip(line.predict(test[:, columns]), 0.0, 1.0)
    return expected


def rfm_boosting(train: np.ndarray, share: np.ndarray, binary: bool, test: np.ndarray, seed: int) -> np.ndarray:
    """Boosted trees on all the counting features: recency, frequency, tenure, reactions, hour."""
    settings = {"max_iter": 120, "learning_rate": 0.06, "max_leaf_nodes": 15, "min_samples_leaf": 40}
    if binary:
        model = HistGradientBoostingClassifier(random_state=seed, early_stopping=False, **settings)
        probability: np.ndarray = model.fit(train, share > 0.5).predict_proba(test)[:, 1]
        return probability
    trees = HistGradientBoostingRegressor(random_state=seed, early_stopping=False, **settings).fit(train, share)
    expected: np.ndarray = np.clip(trees.predict(test), 0.0, 1.0)
    return expected


BASELINES: Mapping[str, Baseline] = MappingProxyType(
    {"recency_frequency": recency_frequency, "rfm_boosting": rfm_boosting}
)
