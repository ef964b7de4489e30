"""Planning a day from a run's log: rules and budgets hold over the log, once per user and day, whatever is killed."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from data.catalog import Catalog
from data.errors import InputError
from data.ingest import StoreSettings, write_store
from data.opportunities import OpportunityRegistry, from_signals
from data.store import LogStore, write_parquet
from data.world.environment import MessageContexts
from data.world.mailroom import signals as said
from data.world.message_record import SIGNALS
from policy.messaging.planned_day import HOLDOUT, Values
from policy.messaging.rules import MessageRules
from policy.messaging.violations import KINDS, faults, standing, violations
from policy.serving.decision_log import SegmentLog
from scripts import plan_messages
from scripts.plan_messages import PlanArguments, stage
from tests.data.message_world import played


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 120 people and ten days, with a catalog that knows its items."""
    folder = tmp_path_factory.mktemp("run")
    world, _ = played(120, 10, seed=1)
    write_store(world.log(), folder / "logs", StoreSettings(buckets=3))
    assert world.mailroom is not None
    write_parquet(said(world.mailroom), folder / "logs" / SIGNALS)
    (folder / "catalog").mkdir()
    return folder


@pytest.fixture(autouse=True)
def catalog(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Known:
        @staticmethod
        def index_of(ids: list[str]) -> NDArray[np.int32]:
            return np.arange(len(ids), dtype=np.int32)

    monkeypatch.setattr(Catalog, "load", lambda folder: Known)


def by_signal(rules: MessageRules) -> Values:
    """Worth what the domain says, less by e-mail and in the app, less the later it is."""

    def values(contexts: MessageContexts, legal: NDArray[np.bool_]) -> NDArray[np.float64]:
        cost = 0.1 * np.arange(legal.shape[2])[:, None] + 0.01 * np.arange(legal.shape[3])
        worth: NDArray[np.float64] = np.nan_to_num(contexts.value.astype(np.float64))[:, :, None, None] - cost
        return worth

    return values


def copy_of(run: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("logs", "catalog"):
        (folder / name).symlink_to(run / name)
    return folder


def arguments(run: Path, **changed: object) -> PlanArguments:
    given = PlanArguments(run=str(run), budget_push=10, budget_email=15, holdout=0.1)
    return replace(given, **changed)  # type: ignore[arg-type]


def planned_rows(run: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file) for file in sorted((run / "plans").glob("*/decisions.parquet"))])


def test_days_in_a_row_break_no_rule_and_nobody_gets_two_decisions(run: Path, tmp_path: Path) -> None:
    folder = copy_of(run, tmp_path / "run")
    store = LogStore(folder / "logs")
    registry = OpportunityRegistry(folder / "opportunities", items=store.items()["item_id"].to_list())
    table = from_signals(pl.read_parquet(folder / "logs" / SIGNALS), store.items(), days=9.0)
    limits = {"channels": pl.lit(["email", "in_app"], dtype=pl.List(pl.String))}
    assert registry.submit(table.with_columns(**limits)).accepted == table.height
    args = arguments(folder, budget_email=40, channel_cap=2, weekly_cap=3)
    for day in range(4):
        on = (store.end.date() + timedelta(days=1 + day)).isoformat()
        assert stage(replace(args, day=on), by_signal) is not None
    rows = planned_rows(folder)
    assert rows["decision_id"].is_unique().all()
    assert not rows.filter(pl.col("arm") == HOLDOUT)["channel"].is_not_null().any()
    users = standing(store.users(), store.events())  # type: ignore[arg-type]
    rules = MessageRules(hours=tuple(args.hours), channel_caps=(2, 2, 2), weekly_cap=3)
    budgets = {"push": 10, "email": 40}
    logged = store.decisions().with_columns(arm=pl.lit(None, dtype=pl.String))
    alone = violations(rows, users, rules, budgets)
    assert alone == dict.fromkeys(KINDS, 0)
    assert not (rows["channel"] == "push").any(), "the opportunities do not go by push"
    assert (rows["channel"] == "email").sum() > 30
    # With the sends of the log before them, the planned ones still keep the caps.
    both = pl.concat([logged, rows], how="diagonal_relaxed")
    late = pl.col("time") >= rows["time"].min()
    found = both.filter(pl.col("channel").is_not_null()).select("decision_id", late=late)
    over = faults(both, users, rules).filter(found["late"])
    assert not over["channel_cap"].any()
    assert not over["weekly_cap"].any()


def test_a_killed_plan_goes_on_and_ends_where_one_at_a_stretch_ends(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = copy_of(run, tmp_path / "whole"), copy_of(run, tmp_path / "killed")
    assert stage(arguments(whole), by_signal) is not None
    decided = LogStore(whole / "logs").decisions().filter(pl.col("decision_id").str.starts_with("m"))
    on = decided["time"].max() + timedelta(hours=12)  # type: ignore[operator]
    assert next(whole.glob("plans/2*")).name == (on + timedelta(hours=12)).date().isoformat(), "the day after the last"
    assert planned_rows(whole).height > 60
    written: list[str] = []
    keep = plan_messages._write

    def dies_at(number: int, frame: pl.DataFrame, file: Path) -> None:
        written.append(file.name)
        if len(written) == number:
            raise KeyboardInterrupt
        keep(frame, file)

    for number in (2, 2, 2):  # each try writes one more file, the last is killed before the decisions
        written.clear()
        monkeypatch.setattr(plan_messages, "_write", lambda frame, file, n=number: dies_at(n, frame, file))
        with pytest.raises(KeyboardInterrupt):
            stage(arguments(killed), by_signal)
        assert not list((killed / "plans").glob("*/decisions.parquet"))
    monkeypatch.setattr(plan_messages, "_write", keep)
    assert stage(arguments(killed), by_signal) is not None
    assert planned_rows(killed).equals(planned_rows(whole))
    assert stage(arguments(killed), by_signal) is None, "a second time adds nothing"
    assert planned_rows(killed).equals(planned_rows(whole))
    with pytest.raises(InputError, match="planned already, with other settings"):
        stage(arguments(killed, budget_push=11), by_signal)


def test_who_has_a_decision_in_the_log_on_that_day_gets_no_second(run: Path, tmp_path: Path) -> None:
    folder = copy_of(run, tmp_path / "run")
    made = LogStore(folder / "logs").decisions().filter(pl.col("decision_id").str.starts_with("m"))
    day = made["time"].dt.date().max()
    planned = stage(arguments(folder, day=str(day), explore=0.02, budget_push=60, budget_email=60), by_signal)
    assert planned is not None
    zone = LogStore(folder / "logs").users().filter(pl.col("time_zone") == "Europe/Stockholm")["user_id"]  # type: ignore[union-attr]
    logged = set(made.filter(pl.col("time").dt.date() == day)["user_id"]) & set(zone)
    assert logged
    assert not logged & set(planned.decisions["user_id"])


def test_what_a_gateway_decided_counts_before_it_is_replayed(run: Path, tmp_path: Path) -> None:
    folder = copy_of(run, tmp_path / "run")
    first = stage(arguments(copy_of(run, tmp_path / "alone"), live_days=9.0), by_signal)
    assert first is not None
    sends = first.decisions.head(2).with_columns(decision_id=pl.format("m-{}", "user_id"), policy=pl.lit("messages@1"))
    one, other = sends.with_columns(slate=pl.lit(["m-offer"])).to_dicts()
    served = SegmentLog(folder / "served" / "decisions", "decisions")
    served.append([{**one, "channel": "push", "surface": "push", "send_at": one["time"]}])
    served.append([{**other, "slate": ["hold"], "channel": None, "surface": "other", "send_at": None}])
    served.close()
    planned = stage(arguments(folder, live_days=9.0), by_signal)
    assert planned is not None
    both = set(sends["user_id"])
    assert both <= set(first.decisions["user_id"])
    assert not both & set(planned.decisions["user_id"])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"day": "tomorrow"}, "give a date"),
        ({"hours": [22]}, "quiet hours"),
        ({"holdout": 1.5}, "share from 0"),
        ({"run": "/nowhere"}, "has no logs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    run: Path, tmp_path: Path, changed: dict[str, object], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        stage(replace(arguments(copy_of(run, tmp_path / "run")), **changed), by_signal)  # type: ignore[arg-type]


def test_without_opportunities_or_a_reward_the_way_out_is_said(run: Path, tmp_path: Path) -> None:
    folder = copy_of(run, tmp_path / "run")
    with pytest.raises(InputError, match="train_message_rewards"):
        stage(arguments(folder))
