"""The outcome labels in pandas, written the way one writes them there: the peer of `bench.py outcomes`.

Whole frames, no loop over rows or users: groupby, merge and merge_asof, categories where they help. It tells the labels
of `data.outcomes` from the same definitions, for logs in which no event has a session id yet, and is compared with them
label by label before anything is timed.
"""

from __future__ import annotations

from datetime import datetime

import pandas as pd

from data.logs import Logs
from data.outcomes import LABEL_WINDOWS, OutcomeSettings
from data.schema import REACTION_STRENGTH

_RETURNS, _WEEKS, _DAY = (1, 7, 14, 28), 4, pd.Timedelta(days=1).as_unit("us")
_SETTINGS = OutcomeSettings()
_RESPONSES = {"plays": "play", "completes": "complete", "saves": "save", "dislikes": "dislike", "skips": "skip"}


def tables(logs: Logs) -> dict[str, pd.DataFrame]:
    """The log as pandas frames, with the dtypes that make pandas fastest."""
    assert logs.decisions is not None
    assert logs.users is not None
    frames = {
        "events": logs.events.to_pandas(),
        "decisions": logs.decisions.drop("slate").to_pandas(),
        "users": logs.users.to_pandas(),
        "items": logs.items.select("item_id", "creator").to_pandas(),
    }
    frames["events"] = frames["events"].astype({"action": "category", "surface": "category"})
    return frames


def outcomes_in_pandas(
    events: pd.DataFrame,
    decisions: pd.DataFrame,
    users: pd.DataFrame,
    items: pd.DataFrame,
    end: datetime,
) -> pd.DataFrame:
    """The labels, a row a decision, in the order of `decisions`; windows that are open at `end` (UTC) are null."""
    gap = pd.Timedelta(minutes=_SETTINGS.gap_minutes)
    zones = users[["user_id", "time_zone"]]
    events = events[events["time"] <= end].sort_values(["user_id", "time"], kind="stable").reset_index(drop=True)
    fresh = (events["user_id"] != events["user_id"].shift()) | (events["time"].diff() > gap)
    events["session"] = fresh.cumsum()
    events = _on_local_days(events.merge(zones, on="user_id", how="left"), "time")
    decisions = decisions[decisions["time"] <= end].merge(zones, on="user_id", how="left")
    decisions = _on_local_days(decisions.assign(row=range(len(decisions))), "time")
    for w in (1, 7, 14, 28, 60):
        decisions[f"closes_{w}"] = _day_start(decisions["day"] + (w + 1) * _DAY, decisions["time_zone"])

    spans = events.groupby("session").agg(
        user_id=("user_id", "first"), first=("time", "min"), last=("time", "max"), time_zone=("time_zone", "first")
    )
    decisions["session"] = _own_sessions(events, decisions, spans.reset_index(), gap)
    decided = decisions.dropna(subset="session").groupby("session")["time"].min().rename("decided")
    active = events[events["action"].isin(_SETTINGS.active)].groupby("session")["time"].min().rename("active")
    spans = spans.join(decided).join(active)
    spans["first"] = spans[["first", "decided"]].min(axis=1)
    spans = _on_local_days(spans, "first", "session_day")
    visits = spans[spans["active"].notna()].copy()
    visits["time"] = visits[["active", "decided"]].min(axis=1)
    visits = _on_local_days(visits, "time").reset_index()
    events = events.merge(spans["session_day"], left_on="session", right_index=True)

    last_seen = decisions["session"].map(spans["last"])
    own_over = pd.concat([last_seen, decisions["time"]], axis=1).max(axis=1) + gap
    decisions["closes_0"] = own_over.where(last_seen.notna(), decisions["closes_1"])
    labels = decisions.set_index("row")[["decision_id"]].copy()
    for found in (
        _returns(decisions, visits, end),
        _active_days(decisions, visits),
        _regularity(decisions, visits),
        _sticky_days(decisions, events, items, _SETTINGS.taken),
        _reach(decisions, events, visits),
        _converted(decisions, events, spans),
        _responses(decisions, events),
        _minutes(decisions, events),
    ):
        labels = labels.join(found)
    return _closed_by(labels, decisions.set_index("row"), end)


def _on_local_days(frame: pd.DataFrame, column: str, name: str = "day") -> pd.DataFrame:
    """`frame` with the local wall clock of `column` and its day."""
    wall = pd.Series(pd.NaT, index=frame.index, dtype="datetime64[us]")
    for zone, part in frame.groupby("time_zone")[column]:
        wall[part.index] = part.dt.tz_convert(str(zone)).dt.tz_localize(None)
    return frame.assign(**{"wall": wall, name: wall.dt.normalize()})


def _day_start(day: pd.Series, zones: pd.Series) -> pd.Series:
    instant = pd.Series(pd.NaT, index=day.index, dtype="datetime64[us, UTC]")
    for zone, part in day.groupby(zones):
        local = part.dt.tz_localize(str(zone), ambiguous=True, nonexistent="shift_forward")
        instant[part.index] = local.dt.tz_convert("UTC")
    return instant


def _own_sessions(events: pd.DataFrame, decisions: pd.DataFrame, spans: pd.DataFrame, gap: pd.Timedelta) -> pd.Series:
    """The session a decision was made in: of its first event, else the one it lies in, else the next within a gap."""
    made = decisions[~decisions["surface"].isin(_SETTINGS.message_surfaces)][["row", "user_id", "decision_id", "time"]]
    linked = events.dropna(subset="decision_id").drop_duplicates(["user_id", "decision_id"])
    linked = linked[["user_id", "decision_id", "session"]]
    spans = spans[["user_id", "session", "first", "last"]]
    by_id = made.merge(linked, on=["user_id", "decision_id"]).merge(spans, on=["user_id", "session"])
    by_id = by_id[(by_id["time"] >= by_id["first"] - gap) & (by_id["time"] <= by_id["last"] + gap)]
    rest, spans = made[~made["row"].isin(by_id["row"])].sort_values("time"), spans.sort_values("first")
    back = pd.merge_asof(rest, spans, left_on="time", right_on="first", by="user_id")
    back = back[back["time"] <= back["last"] + gap]
    rest = rest[~rest["row"].isin(back["row"])]
    ahead = pd.merge_asof(rest, spans, left_on="time", right_on="first", by="user_id", direction="forward")
    ahead = ahead[ahead["first"] <= ahead["time"] + gap]
    own = pd.concat([part.set_index("row")["session"] for part in (by_id, back, ahead)])
    return decisions["row"].map(own)


def _returns(decisions: pd.DataFrame, visits: pd.DataFrame, end: datetime) -> pd.DataFrame:
    after = decisions[["row", "user_id", "time", "day", "time_zone"]].sort_values("time")
    came = visits[["user_id", "time", "day"]].rename(columns={"time": "return_time", "day": "return_day"})
    found = pd.merge_asof(
        after,
        came.sort_values("return_time"),
        left_on="time",
        right_on="return_time",
        by="user_id",
        direction="forward",
        allow_exact_matches=False,
    )
    seen = found["return_time"].notna()
    today = _on_local_days(found.assign(end=pd.Timestamp(end)), "end", "today")["today"]
    days = (found["return_day"].where(seen, today) - found["day"]).dt.days
    labels = found[["row", "return_time"]].assign(return_days=days, return_observed=seen)
    for w in _RETURNS:
        labels[f"returned_{w}d"] = seen & (days <= w)
    return labels.set_index("row")


def _ahead(decisions: pd.DataFrame, visits: pd.DataFrame) -> pd.DataFrame:
    """Every (decision, visit of its user on the 28 days after it): row, the day's number from 0, hour."""
    visits = visits[["user_id", "day", "wall"]].assign(hour=visits["wall"].dt.hour)
    visits = visits[["user_id", "day", "hour"]].drop_duplicates()
    both = decisions[["row", "user_id", "day"]].merge(visits, on="user_id", suffixes=("", "_of_visit"))
    away = (both["day_of_visit"] - both["day"]).dt.days - 1
    inside = (away >= 0) & (away < 7 * _WEEKS)
    return both.loc[inside, ["row", "hour"]].assign(away=away[inside])


def _active_days(decisions: pd.DataFrame, visits: pd.DataFrame) -> pd.DataFrame:
    ahead = _ahead(decisions, visits).drop_duplicates(["row", "away"])
    weekly = ahead.groupby(["row", ahead["away"] // 7]).size().unstack(fill_value=0)
    weekly = weekly.reindex(index=decisions["row"], columns=range(_WEEKS), fill_value=0)
    return pd.DataFrame(
        {"active_days_7": weekly[0], "active_days_28": weekly.sum(axis=1), "habit_28": (weekly >= 3).sum(axis=1)}
    )


def _regularity(decisions: pd.DataFrame, visits: pd.DataFrame) -> pd.DataFrame:
    ahead = _ahead(decisions, visits)
    ahead["week"], ahead["slot"] = ahead["away"] // 7, ahead["away"] % 7 * 24 + ahead["hour"]
    n = ahead.groupby(["row", "week"]).size().unstack(fill_value=0)
    n = n.reindex(index=decisions["row"], columns=range(_WEEKS), fill_value=0)
    pairs = ahead.merge(ahead, on=["row", "slot"], suffixes=("", "_of_other"))
    agreement = pairs[pairs["week"] < pairs["week_of_other"]].groupby("row").size().reindex(n.index, fill_value=0)
    pairs_of_weeks = [(k, other) for k in range(_WEEKS) for other in range(k)]
    chance = pd.concat([n[k] * n[other] / 168 for k, other in pairs_of_weeks], axis=1).sum(axis=1)
    most = pd.concat([n[[k, other]].min(axis=1) for k, other in pairs_of_weeks], axis=1).sum(axis=1)
    value = ((agreement - chance) / (most - chance)).where(most > chance, 0.0)
    return value.rename("regularity_28").to_frame()


def _interactions(events: pd.DataFrame) -> pd.DataFrame:
    """What one listener did with one item in one sitting and on one day, as one row with its strongest reaction."""
    rank = {action: place for place, action in enumerate(REACTION_STRENGTH)}
    dealt = events.dropna(subset="item_id").assign(rank=events["action"].map(rank).astype("int8"))
    keys = ["user_id", "session", "decision_id", "item_id", "day", "session_day"]
    found = dealt.groupby(keys, sort=False, dropna=False, observed=True).agg(
        time=("time", "min"), rank=("rank", "max"), seconds=("seconds", "max")
    )
    return found.reset_index()


def _sticky_days(
    decisions: pd.DataFrame, events: pd.DataFrame, items: pd.DataFrame, taken: tuple[str, ...]
) -> pd.DataFrame:
    dealt = _interactions(events).sort_values("time", kind="stable").merge(items, on="item_id", how="left")
    known = dealt["creator"].notna() & (dealt["creator"] != "")
    dealt["key"] = ("creator:" + dealt["creator"]).where(known, "item:" + dealt["item_id"])
    took = dealt[dealt["rank"].isin([REACTION_STRENGTH.index(action) for action in taken])]
    same = ["user_id", "key", "decision_id", "session", "day"]
    first = dealt.drop_duplicates(["user_id", "key"])[same].dropna(subset="decision_id")
    discovered = first.merge(took[same].drop_duplicates(), on=same)
    made = decisions[["row", "user_id", "decision_id", "day"]].rename(columns={"day": "decided"})
    discovered = discovered.merge(made, on=["user_id", "decision_id"])[["row", "user_id", "key", "decided"]]
    again = took[["user_id", "key", "session_day", "day"]].drop_duplicates()
    came = discovered.merge(again, on=["user_id", "key"])
    came = came[came["session_day"] > came["decided"]]
    labels = pd.DataFrame(index=decisions["row"])
    for w in (28, 60):
        within = came[came["day"] <= came["decided"] + w * _DAY]
        labels[f"sticky_days_{w}"] = within.groupby("row")["session_day"].nunique()
    return labels.fillna(0).astype(int)


def _reach(decisions: pd.DataFrame, events: pd.DataFrame, visits: pd.DataFrame) -> pd.DataFrame:
    decided = decisions.set_index("row")
    left = {}
    for action in ("opt_out", "bounce"):
        first = events[events["action"] == action].groupby("user_id")["time"].min()
        moment = decided["user_id"].map(first)
        left[action] = moment.where(moment < decided["closes_28"])
    days = visits[["user_id", "day"]].drop_duplicates().rename(columns={"day": "visit"}).sort_values("visit")
    tomorrow = decisions[["row", "user_id", "day"]].assign(tomorrow=decisions["day"] + _DAY).sort_values("tomorrow")
    came = pd.merge_asof(
        tomorrow, days, left_on="tomorrow", right_on="visit", by="user_id", direction="forward"
    ).set_index("row")
    dormant = ~(came["visit"] <= came["day"] + 28 * _DAY).reindex(decided.index)
    reason = pd.Series(None, index=decided.index, dtype=object)
    reason[dormant] = "dormant"
    reason[left["bounce"].notna()] = "bounce"
    reason[left["opt_out"].notna() & ~(left["bounce"] < left["opt_out"])] = "opt_out"
    return pd.DataFrame({"unreachable_reason": reason, "reachable_28": reason.isna()})


def _converted(decisions: pd.DataFrame, events: pd.DataFrame, spans: pd.DataFrame) -> pd.DataFrame:
    bought = events[events["action"] == "convert"].groupby("session")["time"].min().rename("bought")
    sittings = spans.join(bought, how="inner").sort_values("first")
    sittings["bought"] = sittings[::-1].groupby("user_id")["bought"].cummin()
    found = pd.merge_asof(
        decisions[["row", "user_id", "time", "closes_28"]].sort_values("time"),
        sittings[["user_id", "first", "bought"]],
        left_on="time",
        right_on="first",
        by="user_id",
        direction="forward",
        allow_exact_matches=False,
    )
    return found.assign(converted_28=found["bought"] < found["closes_28"]).set_index("row")[["converted_28"]]


def _responses(decisions: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    answers = events[events["action"].isin(list(_RESPONSES.values()))].dropna(subset="item_id")
    made = decisions[["row", "user_id", "decision_id", "session", "day"]]
    both = answers.merge(made, on=["user_id", "decision_id"], suffixes=("", "_of_decision"))
    outside = both["session_of_decision"].isna()
    own = both["session"] == both["session_of_decision"]
    both = both[own | (outside & (both["day"] <= both["day_of_decision"] + _DAY))]
    different = both.drop_duplicates(["row", "action", "item_id"])
    counts = different.groupby(["row", "action"], observed=True).size().unstack(fill_value=0)
    counts = counts.reindex(index=decisions["row"], columns=list(_RESPONSES.values()), fill_value=0)
    return counts.set_axis(list(_RESPONSES), axis=1)


def _minutes(decisions: pd.DataFrame, events: pd.DataFrame) -> pd.DataFrame:
    same = ["user_id", "session", "decision_id", "item_id"]
    played = events.dropna(subset="item_id").sort_values([*same, "time"], kind="stable")
    other = (played[same].fillna("") != played[same].fillna("").shift()).any(axis=1)
    begins = other | (played["action"] == "play") | played["action"].shift().isin(["complete", "skip"])
    played = played.groupby(begins.cumsum()).agg(
        user_id=("user_id", "first"), time=("time", "first"), seconds=("seconds", "max")
    )
    played = played[played["seconds"] > 0].sort_values("time", kind="stable")
    played["total"] = played.groupby("user_id")["seconds"].transform(lambda s: s.astype("float64").cumsum())
    upto = {}
    for moment in ("time", "closes_1"):
        found = pd.merge_asof(
            decisions[["row", "user_id", moment]].sort_values(moment),
            played[["user_id", "time", "total"]].rename(columns={"time": "played"}),
            left_on=moment,
            right_on="played",
            by="user_id",
            allow_exact_matches=False,
        )
        upto[moment] = found.set_index("row")["total"].fillna(0.0)
    return ((upto["closes_1"] - upto["time"]) / 60).rename("minutes_1d").to_frame()


def _closed_by(labels: pd.DataFrame, decisions: pd.DataFrame, end: datetime) -> pd.DataFrame:
    for label, window in LABEL_WINDOWS.items():
        labels[label] = labels[label].astype(object).where(decisions[f"closes_{window}"] <= end, None)
    return labels
