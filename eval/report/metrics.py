"""How metrics, policies and stages are called and written on the page; unknown names are shown as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Metric:
    """A metric in words.

    percent: a share, written in percent. short_term: what a click-tuned policy is good at. decimals: how many to
    write, so that columns line up; None = three significant digits.
    """

    label: str
    unit: str = ""
    percent: bool = False
    short_term: bool = False
    decimals: int | None = None


METRICS: Mapping[str, Metric] = {
    "active_days_28": Metric("Active days", "of the next 28", decimals=2),
    "returned_7d": Metric("Return within 7 days", "share of visits", percent=True),
    "sessions_28": Metric("Sessions", "in 28 days", decimals=1),
    "habit_28": Metric("Weeks with 3+ active days", "of the next 4", decimals=2),
    "plays_per_session": Metric("Plays per session", "the immediate tap", short_term=True, decimals=2),
    "minutes": Metric("Minutes listened", "in 28 days", decimals=1),
    "satisfaction": Metric("Satisfaction", "hidden, drives return", decimals=3),
    "returned_1d": Metric("Return within 1 day", "share of visits", percent=True),
    "returned_14d": Metric("Return within 14 days", "share of visits", percent=True),
    "returned_28d": Metric("Return within 28 days", "share of visits", percent=True),
    "return": Metric("Time to return"),
    "return_days": Metric("Days until return"),
    "active_days_7": Metric("Active days in the next 7", decimals=2),
    "regularity_28": Metric("Regularity of the hour of use"),
    "sticky_days_28": Metric("Days back to what was discovered, of 28"),
    "sticky_days_60": Metric("Days back to what was discovered, of 60"),
    "reachable_28": Metric("Still reachable after 28 days", percent=True),
    "converted_28": Metric("Converted within 28 days", percent=True),
    "messages_28": Metric("Messages sent", "in 28 days", decimals=1),
    "opens_28": Metric("Messages opened", "in 28 days", short_term=True, decimals=2),
    "opt_outs_28": Metric("Opt-outs", "in 28 days", decimals=3),
    "plays": Metric("Plays", short_term=True),
    "completes": Metric("Completes", short_term=True),
    "saves": Metric("Saves", short_term=True),
    "dislikes": Metric("Dislikes", short_term=True),
    "skips": Metric("Skips", short_term=True),
    "minutes_1d": Metric("Minutes within a day", short_term=True),
}


@dataclass(frozen=True)
class PolicyStyle:
    """A policy in words, its colour (Okabe & Ito 2008, safe for colour-blind readers) and its marker's shape."""

    label: str
    colour: str
    marker: str


POLICIES: Mapping[str, PolicyStyle] = {
    "logging": PolicyStyle("logging (today)", "#5f6670", "square"),
    "sft": PolicyStyle("SFT", "#0072b2", "circle"),
    "sft_weighted": PolicyStyle("SFT, reward-weighted", "#3b9ac9", "circle"),
    "best_of": PolicyStyle("best of N from SFT", "#2a9d8f", "circle"),
    "dpo_click": PolicyStyle("DPO on clicks", "#b8860b", "triangle"),
    "ppo_click": PolicyStyle("PPO on clicks", "#a8518a", "triangle"),
    "dpo": PolicyStyle("DPO", "#007a5a", "diamond"),
    "grpo_click": PolicyStyle("GRPO on clicks", "#8a5a00", "triangle"),
    "ppo": PolicyStyle("PPO", "#c44a00", "down"),
    "grpo": PolicyStyle("GRPO", "#7a4fb5", "cross"),
    "rloo": PolicyStyle("RLOO", "#a8518a", "circle"),
    "abpo": PolicyStyle("ABPO", "#00808a", "square"),
    "oracle": PolicyStyle("oracle", "#111111", "star"),
    "greedy_click": PolicyStyle("most taps", "#8a6d3b", "star"),
    "random": PolicyStyle("random", "#8d949e", "square"),
    "popularity": PolicyStyle("popularity", "#8d949e", "square"),
    "transition_count": PolicyStyle("transition count", "#5f6670", "square"),
}

BASELINES: Mapping[str, str] = {
    "recency_frequency": "recency and frequency",
    "rfm_boosting": "boosted trees on counts",
    "delayed_only": "trees, old labels only",
    "day_two": "trees on next-day activity",
    "by_segment": "mean of the segment",
    "cox": "Cox",
    "bg_nbd": "BG/NBD",
}

# Policies that are marks on the scale, or tuned to the tap on purpose: the answer is never about them.
NOT_CANDIDATES = ("logging", "sft", "best_of", "random", "popularity", "greedy_click", "oracle", "transition_count")


def policy_style(name: str) -> PolicyStyle:
    """The style of a policy; an unknown one keeps its name."""
    return POLICIES.get(name, PolicyStyle(name, "#37474f", "circle"))


def metric(name: str) -> Metric:
    """The metric by name; an unknown one keeps its name."""
    return METRICS.get(name, Metric(name.replace("_", " ")))


def baseline(name: str) -> str:
    """A baseline of `rewards.baselines` in words; an unknown one keeps its name."""
    return BASELINES.get(name, name.replace("_", " "))


def is_candidate(name: str) -> bool:
    """Whether the answer may be about this policy."""
    return name not in NOT_CANDIDATES and not name.endswith("_click")


def number(value: object, digits: int = 3) -> str:
    """A number with `digits` significant digits, thousands grouped, a true minus; an en dash for None or nan."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if isinstance(value, int) or size >= 10 ** (digits - 1):
        text = f"{size:,.0f}"
    elif size < 1e-4:
        text = f"{size:.{digits - 1}e}"
    else:
        text = f"{size:#.{digits}g}".rstrip(".")
    return (MINUS if value < 0 else "") + text


def percent(value: object, digits: int = 1) -> str:
    """A share in percent."""
    if not isinstance(value, int | float) or value != value:
        return "–"
    return (MINUS if value < 0 else "") + f"{abs(100 * value):.{digits}f}%"


def signed(text: str) -> str:
    """A plus in front of what is neither negative nor zero nor missing."""
    zero = not any(digit in text for digit in "123456789")
    return text if zero or text.startswith(MINUS) else f"+{text}"


def fixed(value: object, decimals: int) -> str:
    """A number with so many decimals, thousands grouped, a true minus."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        return "–"
    text = f"{abs(value):,.{decimals}f}"
    return (MINUS if value < 0 and text.strip("0.,") else "") + text


def written(name: str, value: object, difference: bool = False) -> str:
    """A metric's value as the page writes it; differences carry their sign, of shares in percentage points."""
    about = metric(name)
    if about.percent:
        text = percent(value)
        return signed(text.replace("%", " pts")) if difference else text
    text = number(value) if about.decimals is None else fixed(value, about.decimals)
    return signed(text) if difference else text


def interval(name: str, lo: object, hi: object, difference: bool = False) -> str:
    """An interval in words, "9.91 to 10.20"; a unit is said once."""
    low = written(name, lo, difference)
    return f"{low.removesuffix(' pts')} to {written(name, hi, difference)}"


def seconds(value: object) -> str:
    """A duration: 0.4 s, 12 s, 3 min 20 s, 1 h 05 min."""
    if not isinstance(value, int | float):
        return "–"
    if value < 10:
        return f"{value:.1f} s"
    if value < 60:
        return f"{value:.0f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
