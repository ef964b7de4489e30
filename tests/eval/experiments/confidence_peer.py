"""Runs in spotify-confidence's own environment: summary rows on standard input, its numbers on standard output.

build/spotify-confidence/bin/python tests/eval/experiments/confidence_peer.py < summaries.json
"""

import json
import sys
import warnings

import pandas as pd


def main() -> None:
    warnings.simplefilter("ignore")
    import spotify_confidence as confidence

    rows = pd.DataFrame(json.load(sys.stdin))
    plain = {
        "numerator_column": "sum",
        "numerator_sum_squares_column": "squares",
        "denominator_column": "users",
        "categorical_group_columns": "arm",
        "interval_size": 0.95,
    }
    welch = confidence.StudentsTTest(rows, **plain)
    linear = confidence.ZTestLinreg(
        rows,
        **plain,
        feature_column="covariate",
        feature_sum_squares_column="covariate_squares",
        feature_cross_sum_column="cross",
    )
    found = {
        "version": confidence.__version__ if hasattr(confidence, "__version__") else "",
        "mean": read(welch.difference("control", "treatment")),
        "cuped": read(linear.difference("control", "treatment")),
        "non_inferiority": read(
            confidence.ZTest(rows, **plain).difference(
                "control", "treatment", absolute=True, non_inferiority_margins=(0.05, "increase")
            )
        ),
    }
    print(json.dumps(found))


def read(table: pd.DataFrame) -> dict[str, float]:
    row = table.iloc[0]
    return {name: float(row[name]) for name in ("difference", "ci_lower", "ci_upper", "p-value")}


if __name__ == "__main__":
    main()
