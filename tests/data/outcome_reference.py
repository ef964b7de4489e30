"""The outcome labels once more, slow and obvious, for a log as lists of dicts: what the fast ones must equal.

Written from the definitions, one decision and one visit at a time, with plain datetimes and ZoneInfo.
"""

from collections import defaultdict
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from data.outcomes import LABEL_WINDOWS
from data.schema import REACTION_STRENGTH

GAP = timedelta(minutes=30)
ACTIVE = {"play", "skip", "complete", "save", "like", "dislike", "open", "convert"}
TAKEN = {"play", "complete", "save", "like", "convert"}
Row = dict[str, Any]


def day_start(day: date, zone: ZoneInfo) -> datetime:
    """The first instant (UTC) whose local date is `day`, found by looking at every quarter of an hour around it."""
    instant = datetime.combine(day, time(0), tzinfo=UTC) - timedelta(hours=15)
    while instant.astimezone(zone).date() < day:
        instant += timedelta(minutes=15)
    return instant


def sessions_of(events: list[Row]) -> list[list[Row]]:
    """One user's events, in time order, cut where a gap is longer than 30 minutes."""
    cut: list[list[Row]] = []
    for event in sorted(events, key=lambda e: e["time"]):
        if cut and event["time"] - cut[-1][-1]["time"] <= GAP:
            cut[-1].append(event)
        else:
            cut.append([event])
    return cut


def own_session(decision: Row, sessions: list[list[Row]]) -> int | None:
    """Index of the session the decision was made in."""
    t = decision["time"]
    if decision["surface"] in ("push", "email"):
        return None
    for index, session in enumerate(sessions):
        if any(e["decision_id"] == decision["decision_id"] for e in session):
            if session[0]["time"] - GAP <= t <= session[-1]["time"] + GAP:
                return index
            break
    before = [i for i, s in enumerate(sessions) if s[0]["time"] <= t]
    if before and t <= sessions[before[-1]][-1]["time"] + GAP:
        return before[-1]
    after = [i for i, s in enumerate(sessions) if s[0]["time"] > t]
    if after and sessions[after[0]][0]["time"] <= t + GAP:
        return after[0]
    return None


def outcomes_of_user(
    events: list[Row], decisions: list[Row], zone_name: str, end: datetime, creator: dict[str, str]
) -> dict[str, Row]:
    """decision_id -> labels, for one user's rows."""
    zone = ZoneInfo(zone_name)
    sessions = sessions_of([e for e in events if e["time"] <= end])
    decisions = [d for d in decisions if d["time"] <= end]
    own = {d["decision_id"]: own_session(d, sessions) for d in decisions}
    decided: dict[int, datetime] = {}
    for d in decisions:
        at = own[d["decision_id"]]
        if at is not None:
            decided[at] = min(decided.get(at, d["time"]), d["time"])
    began = [min(s[0]["time"], decided.get(i, s[0]["time"])) for i, s in enumerate(sessions)]
    visits: list[datetime] = []
    for index, session in enumerate(sessions):
        active = [e["time"] for e in session if e["action"] in ACTIVE]
        if active:
            visits.append(min(active[0], decided.get(index, active[0])))

    def local(t: datetime) -> datetime:
        return t.astimezone(zone)

    answer = {}
    for d in decisions:
        t, decision_id = d["time"], d["decision_id"]
        day = local(t).date()
        closes = {w: day_start(day + timedelta(days=w + 1), zone) for w in (1, 7, 14, 28, 60)}
        row: Row = {}
        later = sorted(v for v in visits if v > t)
        row["return_observed"] = bool(later)
        row["return_time"] = later[0] if later else None
        row["return_days"] = ((local(later[0]) if later else local(end)).date() - day).days
        for w in (1, 7, 14, 28):
            row[f"returned_{w}d"] = any(v > t and v < closes[w] for v in visits)
        days = {local(v).date() for v in visits}
        ahead = [(day + timedelta(days=k)) in days for k in range(1, 29)]
        row["active_days_7"], row["active_days_28"] = sum(ahead[:7]), sum(ahead)
        row["habit_28"] = sum(sum(ahead[7 * k : 7 * k + 7]) >= 3 for k in range(4))
        row["regularity_28"] = regularity([local(v) for v in visits], day)
        for w in (28, 60):
            row[f"sticky_days_{w}"] = sticky(d, sessions, began, day, w, zone, creator)
        reasons = []
        for action in ("opt_out", "bounce"):
            reasons += [(e["time"], action == "bounce", action) for s in sessions for e in s if e["action"] == action]
        reasons = sorted(r for r in reasons if r[0] < closes[28])
        dormant = not any(ahead)
        row["unreachable_reason"] = reasons[0][2] if reasons else ("dormant" if dormant else None)
        row["reachable_28"] = row["unreachable_reason"] is None
        row["converted_28"] = any(
            e["action"] == "convert" and began[i] > t and e["time"] < closes[28]
            for i, s in enumerate(sessions)
            for e in s
        )
        at = own[decision_id]
        mine = [
            e
            for i, s in enumerate(sessions)
            for e in s
            if e["decision_id"] == decision_id
            and e["item_id"]
            and (i == at if at is not None else e["time"] < closes[1])
        ]
        for label, action in {
            "plays": "play",
            "completes": "complete",
            "saves": "save",
            "dislikes": "dislike",
            "skips": "skip",
        }.items():
            row[label] = len({e["item_id"] for e in mine if e["action"] == action})
        row["minutes_1d"] = minutes(sessions, t, closes[1])
        matured = closes | {0: closes[1] if at is None else max(sessions[at][-1]["time"], t) + GAP}
        for label, window in LABEL_WINDOWS.items():
            if matured[window] > end:
                row[label] = None
        row["matured"] = matured
        answer[decision_id] = row
    return answer


def regularity(visits: list[datetime], day: date) -> float:
    """Repeated hours of the week beyond chance, over the four weeks after `day`, pair of weeks by pair of weeks."""
    weeks: list[set[tuple[int, int]]] = [set() for _ in range(4)]
    for visit in visits:
        after = (visit.date() - day).days - 1
        if 0 <= after < 28:
            weeks[after // 7].add((after % 7, visit.hour))
    agreement = chance = most = 0.0
    for k in range(4):
        for other in range(k):
            agreement += len(weeks[k] & weeks[other])
            chance += len(weeks[k]) * len(weeks[other]) / 168
            most += min(len(weeks[k]), len(weeks[other]))
    return (agreement - chance) / (most - chance) if most > chance else 0.0


def sticky(
    decision: Row,
    sessions: list[list[Row]],
    began: list[datetime],
    day: date,
    window: int,
    zone: ZoneInfo,
    creator: dict[str, str],
) -> int:
    """Days, of the next `window`, on which a session begins that takes again what the decision let discover."""
    dealings: dict[str, list[tuple[datetime, int, str | None, date, str]]] = defaultdict(list)
    grouped: dict[tuple[int, str | None, str, date], list[Row]] = defaultdict(list)
    for i, session in enumerate(sessions):
        for e in session:
            if e["item_id"]:
                grouped[i, e["decision_id"], e["item_id"], e["time"].astimezone(zone).date()].append(e)
    for (i, decision_id, item, on), events in grouped.items():
        strongest = max((e["action"] for e in events), key=REACTION_STRENGTH.index)
        dealings[creator.get(item) or item].append((events[0]["time"], i, decision_id, on, strongest))
    days = set()
    for dealt in dealings.values():
        first = min(dealt, key=lambda d: d[0])
        if first[2] != decision["decision_id"]:
            continue
        if not any(d[1:4] == first[1:4] and d[4] in TAKEN for d in dealt):
            continue
        for _, i, _, on, strongest in dealt:
            start = began[i].astimezone(zone).date()
            if strongest in TAKEN and start > day and on <= day + timedelta(days=window):
                days.add(start)
    return len(days)


def minutes(sessions: list[list[Row]], t: datetime, closes: datetime) -> float:
    """Minutes played of what was begun from `t` to before `closes`: a play and what ends it are one listening."""
    heard: dict[tuple[int, str | None, str], list[list[Row]]] = defaultdict(list)
    for i, session in enumerate(sessions):
        for e in session:
            if e["item_id"]:
                listenings = heard[i, e["decision_id"], e["item_id"]]
                over = bool(listenings) and listenings[-1][-1]["action"] in ("complete", "skip")
                if not listenings or e["action"] == "play" or over:
                    listenings.append([])
                listenings[-1].append(e)
    spans = [(one[0]["time"], max(e["seconds"] or 0.0 for e in one)) for all_ in heard.values() for one in all_]
    return sum(seconds for began, seconds in spans if t <= began < closes) / 60
