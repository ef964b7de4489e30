"""Plan a day of messages for everybody in a run's log, within budgets: runs/<name>/plans/<day>/decisions.parquet.

    python scripts/plan_messages.py --run runs/messages --budget_push 200 --budget_email 400
    python scripts/plan_messages.py --config scripts/configs/plan_messages.yaml

What may be sent is read from the opportunities that domains submitted (<run>/opportunities), or, where nobody did,
from the value signals of the log; what it is worth is told by the message reward. A day is planned once: the same
command again adds nothing, and one that was killed goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from data.artifacts import run_lock
from data.catalog import Catalog
from data.errors import InputError, exit_on_input_error
from data.local_time import DEFAULT_ZONE, local_clock, local_day, with_time_zone
from data.message_log import message_items, message_log
from data.opportunities import as_signals
from data.progress import track
from data.store import LogStore, read_parquet, write_parquet
from data.world.messages import DECISION_HOUR
from data.world.opportunities import HOLD_ID
from data.world.settings import CHANNELS
from policy.messaging.offers import Offers, limits, told_to
from policy.messaging.planned_day import MESSAGE_MOVES, Drawing, PlannedDay, Values, day_moves, decide, reward_values
from policy.messaging.rules import NEVER, MessageRules, allowed, day_hours
from policy.serving.segments import read_decision_log
from rewards.messages import NAME, MessageReward
from scripts.command_line import ScriptParser

PLANS, SERVED = "plans", "served/decisions"
REMEMBERED_DAYS = 29  # of earlier plans, which the log may not have yet


@dataclass
class PlanArguments:
    """Which run and day, within what; a budget that is not given is no limit."""

    run: str = field(default="runs/messages", metadata={"help": "run folder with logs/, catalog/ and rewards/messages"})
    day: str | None = field(
        default=None,
        metadata={"help": "local day, as 2026-03-29; default: the one after the log's last decisions about messages"},
    )
    budget_push: int | None = field(default=None, metadata={"help": "most push messages"})
    budget_email: int | None = field(default=None, metadata={"help": "most e-mails"})
    budget_in_app: int | None = field(default=None, metadata={"help": "most messages in the app"})
    hours: list[int] = field(default_factory=lambda: [8, 13, 18], metadata={"help": "local hours to send at"})
    quiet_from: int = field(default=21, metadata={"help": "local hour from which nothing is sent"})
    quiet_until: int = field(default=8, metadata={"help": "local hour until which nothing is sent"})
    channel_cap: int = field(default=3, metadata={"help": "most messages a week by each channel"})
    weekly_cap: int = field(default=7, metadata={"help": "most messages a week in all"})
    most: int = field(default=4, metadata={"help": "opportunities considered a user: those that claim the most"})
    live_days: float = field(default=2.0, metadata={"help": "how long a value signal of the log is an opportunity"})
    holdout: float = field(default=0.05, metadata={"help": "share of the users who are never sent anything"})
    explore: float = field(default=0.0, metadata={"help": "share of the users who get any allowed decision, alike"})
    salt: str = field(default="messages", metadata={"help": "of the hashes that draw the holdout and who explores"})

    @property
    def rules(self) -> MessageRules:
        """The rules. Raises InputError where they make no sense."""
        caps = (self.channel_cap,) * len(CHANNELS)
        return MessageRules(self.quiet_from, self.quiet_until, tuple(self.hours), caps, self.weekly_cap)

    @property
    def budgets(self) -> dict[str, int | None]:
        """Sends by channel."""
        return {channel: getattr(self, f"budget_{channel}") for channel in CHANNELS}


def stage(args: PlanArguments, values: Callable[[MessageRules], Values] | None = None) -> PlannedDay | None:
    """Plan the day; None where it is planned already. values: what messages are worth, in place of the reward's.

    Raises InputError where the run lacks something, the settings make no sense, or the day was planned with others.
    """
    run, rules = Path(args.run), args.rules
    for need, script in (("logs", "simulate.py"), ("catalog", "build_catalog.py")):
        if not (run / need).is_dir():
            raise InputError(f"{run} has no {need}/: run scripts/{script} first, or give another --run")
    store = LogStore(run / "logs")
    day = _day(args.day, store)
    drawing = Drawing(day.isoformat(), args.holdout, args.explore, args.salt)
    with run_lock(run / PLANS):
        folder = run / PLANS / day.isoformat()
        if not _begun(folder, {**asdict(args), "run": None, "day": day.isoformat()}):
            return None
        worth = reward_values(MessageReward.load(run / "rewards" / NAME), rules) if values is None else values(rules)
        offers, index = Offers.of(run, store.items(), args.live_days), Catalog.load(run / "catalog").index_of
        earlier, parts = _earlier(run, day), []
        for bucket in track(range(store.buckets), description=f"Weighing messages for {day}"):
            file = folder / "moves" / f"{bucket:04d}.parquet"
            if not file.is_file():
                users = store.users(bucket)
                asked = _asked(store, bucket, users, day, offers, args.most, earlier)
                moves = MESSAGE_MOVES.to_frame()
                if asked is not None:
                    made, told, decisions = asked
                    log = message_log(
                        store.events(bucket),
                        decisions,
                        users,
                        store.items(),
                        made["time"].max(),  # type: ignore[arg-type]
                        index,
                        as_signals(told, made["user_id"].to_list()),
                    )
                    log = log.take(np.isin(np.array(log.decision_id), made["decision_id"].to_numpy()))
                    items = message_items(store.items())["item_id"]
                    expires, by = limits(log.contexts.eligible, made["user_id"].to_list(), told, items)
                    legal = allowed(log.contexts, rules, expires, by)
                    ids = pl.Series(log.user_ids, dtype=pl.String).gather(log.user)
                    moves = day_moves(log.contexts, ids, legal, worth, rules, items, drawing)
                _write(moves, file)
            parts.append(read_parquet(file))
        planned = decide(pl.concat(parts), args.budgets, drawing)
        _write(planned.decisions, folder / "decisions.parquet")  # the one step that makes the day planned
        shutil.rmtree(folder / "moves")
        return planned


def _day(given: str | None, store: LogStore) -> date:
    if given is None:
        last = [day for bucket in range(store.buckets) if (day := _last_decided(store, bucket)) is not None]
        return (max(last) if last else store.end.date()) + timedelta(days=1)
    try:
        return date.fromisoformat(given)
    except ValueError:
        raise InputError(f"--day {given}: give a date, as 2026-03-29") from None


def _last_decided(store: LogStore, bucket: int) -> date | None:
    """The last local day on which messages were decided on."""
    decided = with_time_zone(_of_messages(store, store.decisions(bucket)), store.users(bucket))
    return local_clock(decided).dt.date().max()  # type: ignore[return-value]


def _of_messages(store: LogStore, decisions: pl.DataFrame) -> pl.DataFrame:
    sent = message_items(store.items())["item_id"]
    return decisions.filter(pl.col("channel").is_not_null() | pl.col("slate").list.first().is_in(sent.implode()))


def _begun(folder: Path, settings: dict[str, object]) -> bool:
    """False where the day is planned. What a killed run left stays where it was made with the same settings."""
    file, planned = folder / "plan.json", (folder / "decisions.parquet").is_file()
    said = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    same = file.is_file() and file.read_text() == said
    if planned and not same:
        raise InputError(f"{folder}: this day is planned already, with other settings: a user gets one decision a day")
    if not planned and not same:
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "moves").mkdir(parents=True)
        beside = folder / ".plan.json.making"
        beside.write_text(said)
        os.replace(beside, file)
    (folder / "moves").mkdir(exist_ok=True) if not planned else shutil.rmtree(folder / "moves", ignore_errors=True)
    return not planned


def _earlier(run: Path, day: date) -> pl.DataFrame | None:
    """Decisions about messages that the log may not have yet: of the plans of the days before, and of a gateway."""
    days = [(day - timedelta(days=back)).isoformat() for back in range(1, REMEMBERED_DAYS)]
    there = [read_parquet(file) for d in days if (file := run / PLANS / d / "decisions.parquet").is_file()]
    if (run / SERVED).is_dir():
        held = pl.col("slate") == pl.lit([HOLD_ID], dtype=pl.List(pl.String))
        there.append(read_decision_log(run / SERVED).filter(pl.col("channel").is_not_null() | held))
    return pl.concat(there, how="diagonal_relaxed") if there else None


def _asked(
    store: LogStore,
    bucket: int,
    users: pl.DataFrame | None,
    day: date,
    offers: Offers,
    most: int,
    earlier: pl.DataFrame | None,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame] | None:
    """(decisions to be made, the opportunities they choose from, all decisions up to them) of one bucket's users: those
    with an opportunity, and without a message decision on the day. None where there is nobody."""
    logged = store.decisions(bucket)
    who = logged.select("user_id").unique() if users is None else users.select("user_id")
    who = with_time_zone(who.sort("user_id"), users)
    mornings = {zone: _morning(zone, day) for zone in who["time_zone"].unique().to_list()}
    who = who.with_columns(time=pl.col("time_zone").replace_strict(mornings, return_dtype=pl.Datetime("us", "UTC")))
    if earlier is not None:
        mine = earlier.join(who, on="user_id", how="semi").join(logged, on="decision_id", how="anti")
        logged = pl.concat([logged, mine], how="diagonal_relaxed")
    decided = with_time_zone(_of_messages(store, logged), users)
    today = local_day(local_clock(decided)) == (day - date(1970, 1, 1)).days
    who = who.join(decided.filter(today), on="user_id", how="anti")
    if who.is_empty():
        return None
    sent = message_items(store.items())["item_id"]
    told = told_to(offers.live(who["time"].min(), who["time"].max()), who, sent, most)  # type: ignore[arg-type]
    if told.is_empty():
        return None
    made = told.group_by("user_id", maintain_order=True).agg(pl.col("time").first(), candidates=pl.col("item_id"))
    made = made.with_columns(
        decision_id=pl.format("p{}-{}", pl.lit(day.isoformat()), "user_id"),
        surface=pl.lit("other"),
        policy=pl.lit("none"),
        slate=pl.lit([HOLD_ID], dtype=pl.List(pl.String)),
    )
    return made, told, pl.concat([logged, made], how="diagonal_relaxed")


def _morning(zone: str, day: date) -> datetime:
    """The hour of decisions of a local day, or the first after it that the day has."""
    starts = day_hours(zone or DEFAULT_ZONE, (day - date(1970, 1, 1)).days)[0][DECISION_HOUR:]
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=next(us for us in starts if us != NEVER))


def _write(frame: pl.DataFrame, file: Path) -> None:
    beside = file.with_name(f".{file.name}.making")
    write_parquet(frame, beside)
    with beside.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(beside, file)


def table_of(planned: PlannedDay, budgets: dict[str, int | None]) -> Table:
    """Sends, budgets and prices by channel."""
    made, rows = planned.plan, planned.decisions
    held = rows.filter(pl.col("arm") != "messages").height
    title = (
        f"{rows.height:,} decisions, {held:,} held out, {planned.explored:,} explored; planned value "
        f"{made.value:,.2f}, at most {100 * made.gap:.4f}% below the best possible"
    )
    table = Table("channel", "sends", "budget", "price of a send", title=title)
    for c, channel in enumerate(CHANNELS):
        budget = budgets[channel]
        sends = rows.filter(pl.col("channel") == channel).height
        table.add_row(channel, f"{sends:,}", "-" if budget is None else f"{budget:,}", f"{made.prices[c]:.4f}")
    return table


def main() -> None:
    (args,) = ScriptParser((PlanArguments,)).parse_args_and_config()
    planned = stage(args)
    console = Console()
    if planned is None:
        console.print("this day is planned already: nothing was added")
    else:
        console.print(table_of(planned, args.budgets))


if __name__ == "__main__":
    exit_on_input_error(main)
