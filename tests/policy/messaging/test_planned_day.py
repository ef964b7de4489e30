"""A planned day: its probabilities are those with which it is decided, budgets hold, and the holdout hears nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from data.schema import validate
from data.world.settings import CHANNELS
from policy.messaging.planned_day import HOLDOUT, Drawing, day_moves, decide
from policy.messaging.rules import MessageRules, allowed
from tests.policy.messaging.test_rules import make_contexts

RULES = MessageRules(hours=(8, 18), weekly_cap=8)
ITEMS = pl.Series([f"m-{i}" for i in range(5)])
USERS = 400


def moves(drawing: Drawing, users: int = USERS) -> pl.DataFrame:
    """Moves of people in many zones, early on one day; each message worth something by item, channel and user."""
    contexts = make_contexts([1_772_330_400_000_000] * users, [u % 4 for u in range(users)], seed=1)
    contexts = replace(contexts, eligible=np.array([np.random.default_rng(u).permutation(5)[:3] for u in range(users)]))
    legal = allowed(contexts, RULES)
    worth = np.random.default_rng(2).normal(0.2, 1.0, legal.shape)
    return day_moves(
        contexts, pl.Series([f"u{u}" for u in range(users)]), legal, lambda *_: worth, RULES, ITEMS, drawing
    )


def test_a_day_without_exploring_is_its_plan_and_the_holdout_hears_nothing() -> None:
    drawing = Drawing("2026-03-01", holdout=0.2)
    made = decide(moves(drawing), {"push": 20, "email": 50}, drawing)
    rows = validate(made.decisions, "decisions", "plan")
    held_out = rows.filter(pl.col("arm") == HOLDOUT)
    assert 50 < held_out.height < 110
    assert held_out["channel"].null_count() == held_out.height
    assert set(held_out["policy"]) == {"holdout@1"}
    assert (rows["propensity"] == 1.0).all()
    counts = dict(rows.drop_nulls("channel").group_by("channel").len().iter_rows())
    assert counts["push"] == 20
    assert counts["email"] == 50
    assert counts["in_app"] > 50
    sends = rows.drop_nulls("channel")
    assert (sends["send_at"] >= sends["time"]).all()
    assert (sends["slate"].list.first() != "hold").all()
    assert sends.select(pl.col("candidates").list.contains(pl.col("slate").list.first())).to_series().all()
    assert set(rows.filter(pl.col("channel").is_null())["slate"].list.first()) == {"hold"}
    assert Drawing("2026-03-02", holdout=0.2).arm("u7") == drawing.arm("u7"), "held out for good"


def test_logged_probabilities_are_how_often_each_decision_is_made() -> None:
    seen: dict[tuple[str, ...], list[float]] = {}
    plans = set()
    for day in range(300):
        drawing = Drawing(f"day-{day}", explore=0.3)
        made = decide(moves(drawing, 60), {"push": 40, "email": 40}, drawing)
        plans.add(made.plan.option.tobytes() + made.plan.channel.tobytes())
        for row in made.decisions.head(6).rows(named=True):
            key = (row["user_id"], row["slate"][0], row["channel"] or "", str(row["send_at"]))
            seen.setdefault(key, []).append(row["propensity"])
        sends = made.decisions["channel"].drop_nulls().to_list()
        assert max(sends.count("push"), sends.count("email")) <= 40
    assert len(plans) == 1, "who explores does not move the plan"
    for probabilities in seen.values():
        assert len(set(probabilities)) == 1
        p = probabilities[0]
        assert len(probabilities) / 300 == pytest.approx(p, abs=5 * np.sqrt(p * (1 - p) / 300) + 1e-9)
    # Over all decisions of a user the probabilities sum to 1; those never drawn in 300 days are missing.
    assert sum(p[0] for p in seen.values()) == pytest.approx(6.0, abs=0.25)


def test_exploring_that_could_spend_a_budget_is_refused() -> None:
    drawing = Drawing("2026-03-01", explore=0.5)
    with pytest.raises(InputError, match="explore less"):
        decide(moves(drawing), {"push": 20}, drawing)
    with pytest.raises(InputError, match="no channel 'fax'"):
        decide(moves(drawing), {"fax": 20}, drawing)
    with pytest.raises(InputError, match="share from 0"):
        Drawing("2026-03-01", holdout=1.0)
    empty = decide(moves(drawing).head(0), dict.fromkeys(CHANNELS, 0), Drawing("2026-03-01"))
    assert empty.decisions.is_empty()
