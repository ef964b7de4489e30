"""The answer first: what would change, how sure that is, what it costs, and why one should believe it.

Only numbers of the report are used, and a difference whose interval holds zero is never called a gain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eval.estimators import ESTIMATORS
from eval.report.metrics import baseline, interval, is_candidate, metric, number, percent, policy_style, signed, written

HEADLINE = "active_days_28"
TAP = "plays_per_session"
PEOPLE = 1000
HEAVY_TAIL = 0.7  # Pareto k above which the spread that is seen is not the spread there is (Vehtari et al. 2024)

Report = Mapping[str, Any]
Answer = dict[str, object]


def answer(report: Report, candidate: str | None = None) -> Answer:
    """{"headline", "verdict" (gain | loss | unclear | unknown), "policy", "points": [{"what", "says"}]}.

    From the world where there is one, otherwise from off-policy values, otherwise from what the log can show.
    """
    paired = report.get("world", {}).get("paired_vs_sft")
    if paired:
        name = chosen({policy: found.get(HEADLINE, {}).get("lo") for policy, found in paired.items()}, candidate)
        if name is not None and HEADLINE in paired[name]:
            return of_world(report, name)
    supported = {}
    for policy, estimates in report.get("ope", {}).items():
        found = first_supported(estimates)
        if found is not None and not failed_checks(report, policy):
            supported[policy] = found
    name = chosen({policy: found["diff_lo"] for policy, found in supported.items()}, candidate)
    if name is not None:
        return of_off_policy(report, name, supported[name])
    return of_log(report)


def chosen(lower: Mapping[str, float | None], candidate: str | None) -> str | None:
    """The named candidate, or the one whose lower bound is best."""
    if candidate is not None and candidate in lower:
        return candidate
    known = {name: bound for name, bound in lower.items() if is_candidate(name) and bound is not None}
    return max(known, key=known.__getitem__) if known else None


def verdict_of(lo: float, hi: float) -> str:
    """What an interval allows one to say."""
    return "gain" if lo > 0 else "loss" if hi < 0 else "unclear"


def of_world(report: Report, name: str) -> Answer:
    """The answer where the truth is known."""
    world = report["world"]
    label = policy_style(name).label
    gap = world["paired_vs_sft"][name][HEADLINE]
    sft = world["policies"]["sft"][HEADLINE]["mean"]
    verdict = verdict_of(gap["lo"], gap["hi"])
    size = f"about {rounded(abs(gap['diff']) * PEOPLE)} {'more' if gap['diff'] > 0 else 'fewer'} active days"
    headline = {
        "gain": f"{label} would bring people back: per {PEOPLE:,} listeners, {size} in the next four weeks "
        "than the same model before tuning (SFT).",
        "loss": f"{label} would cost return: per {PEOPLE:,} listeners, {size} in the next four weeks "
        "than the same model before tuning (SFT). Do not ship it.",
        "unclear": f"No policy here is shown to bring people back: {label}, the most promising, differs from SFT by "
        f"{written(HEADLINE, gap['diff'], True)} active days a listener, which is within chance.",
    }[verdict]
    share = f", {signed_percent(gap['diff'] / sft)}" if sft else ""
    points = [
        point(
            "How sure",
            f"{written(HEADLINE, gap['diff'], True)} active days of 28 per listener{share} over SFT; 95% interval "
            f"{interval(HEADLINE, gap['lo'], gap['hi'], True)}" + seeds_words(gap) + ".",
        )
    ]
    today = world.get("paired_vs_logging", {}).get(name, {}).get(HEADLINE)
    if today:
        points.append(
            point(
                "Against today",
                f"{written(HEADLINE, today['diff'], True)} active days of 28 per listener over the policy that wrote "
                f"the log ({interval(HEADLINE, today['lo'], today['hi'], True)}).",
            )
        )
    returned = world["paired_vs_sft"][name].get("returned_7d")
    if returned:
        points.append(
            point(
                "Coming back",
                f"visits followed by another within 7 days: {written('returned_7d', returned['diff'], True)} "
                f"({interval('returned_7d', returned['lo'], returned['hi'], True)}).",
            )
        )
    points.append(point("What it costs in clicks", cost_in_clicks(world, name)))
    points += cost_in_variety(report, name)
    points += next_item(report, name)
    if name in world.get("gap_closed", {}):
        closed = world["gap_closed"][name]
        points.append(
            point(
                "How much more there is",
                f"{label} goes {percent(closed['share'], 0)} of the way from today's policy to an oracle that sees "
                f"what listeners feel ({percent(closed['lo'], 0)} to {percent(closed['hi'], 0)}).",
            )
        )
    listeners, days = world["listeners"], world["horizon_days"]
    seeds = len(world["seeds"])
    points.append(
        point(
            "Why believe it",
            f"the same {number(listeners)} simulated listeners lived the same {days} days under every policy, with the "
            f"same luck{f', in {seeds} worlds' if seeds > 1 else ''}; nothing was estimated from a model. It is a "
            "simulation: it shows that the method finds what it is told to look for, not what your listeners will do.",
        )
    )
    return {"headline": headline, "verdict": verdict, "policy": name, "points": points}


def cost_in_clicks(world: Report, name: str) -> str:
    """What happens to the tap, beside the click-tuned twin where it was played."""
    paired = world["paired_vs_sft"]
    tap = paired[name].get(TAP)
    if tap is None:
        return "the tap was not measured."
    direction = {"gain": "more", "loss": "fewer"}.get(verdict_of(tap["lo"], tap["hi"]))
    words = (
        f"{written(TAP, abs(tap['diff']))} {direction} plays a session than SFT"
        if direction
        else "no difference in plays a session that could be told from chance"
    )
    words += f" ({interval(TAP, tap['lo'], tap['hi'], True)})"
    twin = paired.get(f"{name}_click") or paired.get("dpo_click")
    if twin and TAP in twin and HEADLINE in twin:
        words += (
            f". The twin tuned for clicks has {written(TAP, twin[TAP]['diff'], True)} plays a session and "
            f"{written(HEADLINE, twin[HEADLINE]['diff'], True)} active days"
        )
    return words + "."


def cost_in_variety(report: Report, name: str) -> list[dict[str, str]]:
    """How many items are shown, as if equally often, beside today's: a gain that narrows the catalog has that price."""
    shown = report.get("exposure", {})
    ours, today = (shown.get(policy, {}).get("effective_items") for policy in (name, "logging"))
    if not ours or not today:
        return []
    says = f"its showings are as varied as {ours:,.0f} items shown equally often, today's as {today:,.0f}."
    by_tenth = report.get("fairness", {}).get("by_tenth", {})
    if name in by_tenth and "logging" in by_tenth:
        first, now = by_tenth[name][0], by_tenth["logging"][0]
        says += f" The most taken tenth of {report['fairness']['ranked']} gets {percent(first, 0)} of them, today "
        says += f"{percent(now, 0)}."
    return [point("What it costs in variety", says)]


def next_item(report: Report, name: str) -> list[dict[str, str]]:
    """How often it has the next item among its ten, beside SFT: what tuning for return is often paid for with."""
    ours, before = (report.get("ranking", {}).get(policy, {}).get("hr@10") for policy in (name, "sft"))
    if ours is None or before is None:
        return []
    label = policy_style(name).label
    says = f"{label} has what a listener took next among its ten in {percent(ours)} of cases, SFT in {percent(before)}."
    return [point("Knowing what comes next", says)]


def seeds_words(gap: Report) -> str:
    """The interval over retrained seeds, where there is one."""
    if "seeds_lo" not in gap:
        return ""
    lo, hi = gap["seeds_lo"], gap["seeds_hi"]
    words = f" over listeners, {interval(HEADLINE, lo, hi, True)} over {len(gap['by_seed'])} trainings from scratch"
    if verdict_of(gap["lo"], gap["hi"]) != "unclear" and verdict_of(lo, hi) == "unclear":
        words += ", which holds zero: these trained policies do it, another training may not repeat it"
    return words


def of_off_policy(report: Report, name: str, found: Report) -> Answer:
    """The answer where the log supports an off-policy value."""
    label, reward = policy_style(name).label, metric(report["ope_about"]["reward"]).label.lower()
    verdict = verdict_of(found["diff_lo"], found["diff_hi"])
    headline = {
        "gain": f"{label} would raise {reward}: {number(found['value'])} where today's policy has "
        f"{number(found['value'] - found['diff'])}.",
        "loss": f"{label} would lower {reward}: {number(found['value'])} where today's policy has "
        f"{number(found['value'] - found['diff'])}. Do not ship it.",
        "unclear": f"This log does not show that {label} would change {reward}.",
    }[verdict]
    diff, low, high = (signed(number(found[name])) for name in ("diff", "diff_lo", "diff_hi"))
    points = [
        point("How sure", f"{diff} against the logging policy, 95% interval {low} to {high}."),
        point(
            "Why believe it",
            f"{found['estimator']} on logged slates with known probabilities, {number(round(found['ess']))} effective "
            f"rounds, intervals clustered by listener. It takes for granted that {found['assumption']}. Run an "
            "experiment before you trust it with everybody.",
        ),
        *doubts(report, name),
    ]
    return {"headline": headline, "verdict": verdict, "policy": name, "points": points}


def doubts(report: Report, name: str) -> list[dict[str, str]]:
    """What the interval does not know: a heavy tail of weights, and propensities that are somebody's word."""
    found, about = [], report["ope_about"]
    k = about["support"][name]["pareto_k"]
    if k is not None and k > HEAVY_TAIL:
        says = f"a few rounds carry much of the weight (tail k {number(k, 2)}, above {HEAVY_TAIL:g}): the interval is "
        found.append(point("Where it may be wrong", f"{says}likely too narrow."))
    doubt = about.get("sensitivity", {}).get(name)
    if doubt is not None:
        tips, most = doubt["tips_at"], max(bound["gamma"] for bound in doubt["bounds"])
        says = (
            "the log's probabilities were not written down when it was made, so something that nobody logged may have "
        )
        says += "moved both slate and outcome. "
        if tips is None:
            says += f"The difference keeps its sign while the odds are off by up to a factor of {most:g}"
        elif tips == 1:
            says += "The difference has no sign to lose, even if they are right"
        else:
            says += f"The difference loses its sign where the odds are off by a factor of {tips:g}"
        found.append(point("If the probabilities are wrong", f"{says}."))
    return found


def failed_checks(report: Report, policy: str) -> list[str]:
    """The checks that a policy's values failed, by name: then no value of it is quoted."""
    made = report.get("ope_about", {}).get("checks", {}).get(policy, [])
    return [check["name"] for check in made if not check["passed"]]


def of_log(report: Report) -> Answer:
    """The answer where nothing can be said about another policy: what the log does show."""
    points = []
    heads = report.get("rewards", {}).get("heads", {})
    for label, head in heads.items():
        name, score = score_of(head)
        if score is None or head["baseline"] is None or metric(label).short_term:
            continue
        better = score - head["baseline"]
        words = "above" if better > 0.005 else "below" if better < -0.005 else "level with"
        points.append(
            point(
                f"Can we foresee it: {metric(label).label.lower()}",
                f"{name} {number(score)} on later days, {words} {baseline(head['baseline_name'])} "
                f"({number(head['baseline'])}).",
            )
        )
    ranking = report.get("ranking", {})
    floor = ranking.get("transition_count")
    tuned = [name for name in ranking if name not in ("transition_count", "popularity")]
    if floor and tuned:
        best = max(tuned, key=lambda name: ranking[name].get("hr@10") or 0.0)
        ours, theirs = ranking[best].get("hr@10"), floor.get("hr@10")
        words = "above" if ours > theirs else "below"
        points.append(
            point(
                "Does it know what comes next",
                f"{policy_style(best).label} finds the next item among its ten in {percent(ours)} of cases, {words} "
                f"the transition count's {percent(theirs)}.",
            )
        )
    reasons = refused(report)
    reasons += [missing["consequence"] for missing in report.get("missing", [])][:2]  # the page has the others
    if reasons:
        points.append(point("Why not more", " ".join(reasons)))
    points.append(
        point(
            "What would answer it",
            "serve one of these policies to a part of the listeners, drawing slates at random and logging their "
            "probabilities; the next report can then say.",
        )
    )
    headline = "This log cannot say what another policy would change"
    shown = ["how well return is foreseen"] if heads else []
    shown += ["what each policy would play"] if report.get("slates") else []
    headline += f"; it shows {' and '.join(shown)}." if shown else "."
    return {"headline": headline, "verdict": "unknown", "policy": None, "points": points}


def refused(report: Report) -> list[str]:
    """Why the first of the refused has no off-policy value; a log without propensities says so among `missing`."""
    if any(missing["what"] == "propensities" for missing in report.get("missing", [])):
        return []
    found = report.get("ope_about", {}).get("support", {})
    reasons = [
        f"{policy_style(name).label}: its values fail a check ({', '.join(failed)}), so they are not to be trusted."
        for name in found
        if (failed := failed_checks(report, name))
    ]
    reasons += [
        f"{policy_style(name).label}: {s['refused']}."
        for name, s in found.items()
        if s["refused"] and name != "logging"
    ]
    return reasons[:1]


def first_supported(estimates: Report) -> Report | None:
    """The estimate to quote: doubly robust where there is a model, else self-normalised, else plain.

    Slate estimators come last: they answer where whole slates cannot, on an assumption that the answer then names.
    """
    for name in ("sndr", "dr", "snips", "clipped", "ips", "pi_dr", "sn_pi", "pi"):
        found = estimates.get(name)
        if found and found["value"] is not None and found["diff_lo"] is not None:
            return {**found, "estimator": name.upper(), "assumption": ESTIMATORS[name].assumption}
    return None


def score_of(head: Report) -> tuple[str, float | None]:
    """The head's score and what it is called."""
    for name, words in (("auc", "AUC"), ("c_index", "C-index")):
        if name in head:
            return words, head[name]
    known = ("baseline", "baseline_name", "baselines", "ece", "ece_chance", "rows", "reliability")
    other = next((name for name in head if name not in known), None)
    return (other.replace("_", " "), head[other]) if other else ("score", None)


def point(what: str, says: str) -> dict[str, str]:
    """One line under the headline."""
    return {"what": what, "says": says[:1].upper() + says[1:]}


def rounded(value: float) -> str:
    """Two significant digits, written out: 1,634 is about 1,600."""
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 1 else f"{value:.2g}"


def signed_percent(share: float) -> str:
    """+5.2% or −5.2%."""
    text = percent(share)
    return text if share < 0 else f"+{text}"
