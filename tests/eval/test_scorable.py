"""Decisions of a server, put to the policy that made them: each with weight 1, or left out and counted."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from data.histories import Decisions, contexts
from eval.scorable import NO_PROPENSITY, OTHER_LENGTH, RESTRICTED, scorable
from eval.sections import Judged, off_policy_section
from policy.agent import LanguageModelPolicy
from tests.policy.test_language_model import make_speaker
from tests.rewards.made_up_log import SLATE, SMALL, MadeUp, make_log, train


@pytest.fixture(scope="module")
def log() -> MadeUp:
    return make_log(users=80, days=30, size=0.3, seed=3)


def spoilt(decisions: Decisions) -> Decisions:
    """The first 60 rows: 10 without a propensity, 20 longer, 10 shorter, 20 of a part of the catalog (10 of them
    shorter, too)."""
    wide = np.concatenate([decisions.slate, np.full((len(decisions), 1), -1, np.int32)], axis=1)
    for row in range(10, 30):
        wide[row, -1] = next(item for item in range(SLATE + 1) if item not in wide[row])
    wide[30:50, -2] = -1
    propensity = decisions.log_propensity.copy()
    propensity[:10] = np.nan
    restricted = np.zeros(len(decisions), np.bool_)
    restricted[40:60] = True
    return replace(decisions, slate=wide, log_propensity=propensity, restricted=restricted)


def test_every_reason_is_counted_once(log: MadeUp) -> None:
    decisions, rows = spoilt(log.decisions), np.arange(len(log.decisions))
    kept, left_out = scorable(decisions, rows, {SLATE})
    assert left_out == {NO_PROPENSITY: 10, OTHER_LENGTH: 40, RESTRICTED: 10}
    assert kept.tolist() == list(range(60, len(rows)))
    assert scorable(log.decisions, rows, {SLATE})[1] == {}
    organic = replace(decisions, log_propensity=np.full(len(rows), np.nan))
    assert scorable(organic, rows, {SLATE}) == (pytest.approx(rows), {})


def test_a_policy_judged_on_what_it_served_has_weight_1(log: MadeUp, tmp_path: Path) -> None:
    torch.manual_seed(0)
    items = log.catalog.items["item_id"]
    told = pl.DataFrame({"item_id": items, "kind": "track", "title": items, "creator": items, "text": items})
    catalog = replace(log.catalog, items=told.with_columns(tags=pl.concat_list(pl.lit("calm"))))
    policy = LanguageModelPolicy("ppo", make_speaker(catalog, SLATE))
    slates, log_p = policy.choose(contexts(log.histories, log.decisions, 4), np.random.default_rng(0))
    served = replace(log.decisions, slate=slates, log_propensity=log_p, move=list(policy.last_moves))
    reward = train(log, replace(SMALL, train=replace(SMALL.train, epochs=1))).model
    log.outcomes.write_parquet(tmp_path / "00.parquet")
    facts = {"labels": ["active_days_7"], "left_out": {}, "end": log.end.isoformat(), "buckets": 1}
    (tmp_path / "outcomes.json").write_text(json.dumps(facts))

    judged = Judged(catalog, log.histories, spoilt(served), 0, {"ppo": policy.spoken})
    found = off_policy_section(judged, tmp_path, reward, ["active_days_7"], 300, 0)
    assert found is not None
    later = judged.later(len(served), 0)
    assert found.left_out == scorable(judged.decisions, later, {SLATE})[1]
    assert sum(found.left_out.values()) == (later < 60).sum() > 40
    support = found.values["ppo"].support
    assert (support.rounds, support.ess) == (300, pytest.approx(300, abs=0.01))
    assert support.mean_weight == pytest.approx(1.0, abs=1e-3)
    assert sum(part.rounds for part in found.overlap["ppo"].values()) == 300
