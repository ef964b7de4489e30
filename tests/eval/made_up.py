"""A made-up but realistic report: every section filled, numbers of the size that a demo run has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from eval.exposure import of_slates
from eval.intervals import Interval
from eval.messages import Example, MessageSection
from eval.off_policy import OffPolicySettings, off_policy_value
from eval.ranking import RankingResult
from eval.report.inputs import (
    ExposureSection,
    FairnessSection,
    FrequencyTenth,
    HabitSection,
    HeadQuality,
    IdLevel,
    ListenerSlates,
    Missing,
    OffPolicySection,
    ParetoSection,
    RankingSection,
    Reliability,
    ReportInputs,
    RewardSection,
    ShownItem,
    WorldSection,
)
from eval.rollout import Rollout, RolloutSettings
from eval.rounds import LoggedRounds
from eval.survival import kaplan_meier
from rewards.objective import LoggingMoments, SlateScores
from rewards.pareto import sweep

# policy -> (gain in active days, gain in plays a session) over logging
POLICIES = {
    "logging": (0.0, 0.0),
    "sft": (0.25, 0.1),
    "dpo_click": (-0.9, 0.62),
    "dpo": (1.35, -0.12),
    "ppo": (1.8, -0.18),
    "oracle": (5.2, -0.3),
}


def rollouts(seeds: int = 1, listeners: int = 300, gains: float = 1.0) -> list[Rollout]:
    """Rollouts of all policies over a few seeds."""
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        base = rng.gamma(4.0, 2.5, listeners).clip(0, 28)
        metrics = {}
        for name, (days, plays) in POLICIES.items():
            active = (base + gains * days * (1 + 0.1 * seed) + rng.normal(0, 1.6, listeners)).clip(0, 28)
            tap = 2.4 + plays + rng.normal(0, 0.3, listeners)
            tap[active < 0.5] = np.nan
            metrics[name] = {
                "active_days_28": active,
                "returned_7d": (0.55 + 0.014 * active + rng.normal(0, 0.05, listeners)).clip(0, 1),
                "habit_28": (active / 6).clip(0, 4),
                "plays_per_session": tap,
                "minutes": active * tap * 3.1,
                "satisfaction": 0.1 + 0.02 * active,
            }
        found.append(Rollout(metrics, seed))
    return found


def curve(seed: int, low: float, high: float) -> Reliability:
    """A calibration curve with a little noise."""
    rng = np.random.default_rng(seed)
    predicted = np.linspace(low, high, 10)
    observed = predicted + rng.normal(0, 0.02 * (high - low), 10)
    return Reliability(predicted.tolist(), observed.tolist(), rng.integers(200, 2000, 10).tolist())


def result(hit: float, gain: Interval | None) -> RankingResult:
    """A ranking result around a hit rate."""
    metrics = {
        "hr@10": Interval(hit, hit - 0.006, hit + 0.006, 0.003, 900),
        "ndcg@10": Interval(hit * 0.55, hit * 0.55 - 0.004, hit * 0.55 + 0.004, 0.002, 900),
    }
    return RankingResult(metrics, {} if gain is None else {"hr@10": gain, "ndcg@10": gain}, 5000)


def baselines(best: float) -> dict[str, float]:
    """The seven of rewards.baselines, boosted trees ahead."""
    names = ("rfm_boosting", "recency_frequency", "delayed_only", "day_two", "by_segment", "cox", "bg_nbd")
    return {name: best - 0.012 * place for place, name in enumerate(names)}


def fairness() -> FairnessSection:
    """A policy that heavy listeners gain by and that shows the long tail more than logging does."""
    rng = np.random.default_rng(6)
    people = {"new": 12, "lapsing": 80, "heavy": 70, "light": 138}
    gains = {}
    for name, (days, _) in POLICIES.items():
        if name != "sft":
            at = {"lapsing": 0.1 * days, "heavy": 1.4 * days, "light": days}
            gains[name] = {s: Interval(v, v - 0.5, v + 0.5, 0.25, people[s]) for s, v in at.items()}
    steep = {"consumed": 0.9, "logging": 0.8, "sft": 0.85, "dpo_click": 1.3, "dpo": 0.7, "ppo": 0.5, "oracle": 0.6}
    by_tenth = {n: (np.arange(1, 11) ** -s / (np.arange(1, 11) ** -s).sum()).tolist() for n, s in steep.items()}
    kinds = {name: {"podcast": share, "track": 1 - share} for name, share in zip(steep, rng.uniform(0.1, 0.4, 7))}
    return FairnessSection("creators", 120, by_tenth, kinds, people, gains)


def pareto() -> ParetoSection:
    """A front between return and plays, made by the sweep itself from made-up scores."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(200, 32, 2, generator=generator) @ torch.tensor([[0.08, -0.05], [0.0, 0.3]])
    scores = SlateScores(mean=mean, spread=torch.full_like(mean, 0.01), support=torch.zeros(200, 32))
    moments = LoggingMoments(("active_days_28", "plays"), np.diag([0.0064, 0.09]))
    return ParetoSection(sweep(moments, ("active_days_28", "plays"), scores), 200, 32)


def messages() -> MessageSection:
    """Message policies compared, with a story of each."""
    rng = np.random.default_rng(5)
    sends = {"logging": 7.5, "hold": 0.0, "most_opens": 22.0, "clicks": 22.1, "reward": 9.0, "oracle": 8.5}
    metrics, daily = {}, {}
    for place, (name, sent) in enumerate(sends.items()):
        people = np.random.default_rng(7).normal(0, 4, 300)
        metrics[name] = {
            "active_days_28": 9.0 + 0.1 * place + people,
            "sessions_28": 11.0 + 0.1 * place + people,
            "converted_28": (rng.random(300) < 0.01 + 0.004 * place).astype(float),
            "messages_28": np.full(300, sent),
            "opens_28": np.full(300, sent / 12),
            "opt_outs_28": (rng.random(300) < sent / 150).astype(float),
            "reachable_28": (rng.random(300) < 0.88 - sent / 250).astype(float),
        }
        daily[name] = {
            "sent": np.full(28, sent / 28),
            "opened": np.full(28, sent / 336),
            "sessions": np.full(28, 0.4),
            "opt_outs": np.full(28, sent / 4200),
            "reachable": 0.88 - np.arange(28) * sent / 7000,
        }
    example = Example(
        listener="u00034",
        told="Monday in Stockholm. Last listened 11 hours ago. Pays. Opened 0 of the 5 messages of two weeks.",
        offered=("New from The Telephones: Neon in Bright Weekend", "Your hiphop playlist has been refreshed"),
        decided={name: "holds" if name in ("hold", "reward") else "“Neon” by push at 18:00" for name in sends},
        came={name: "" if name in ("hold", "reward") else "dismissed" for name in sends},
    )
    rollout = Rollout(metrics, 0, RolloutSettings(reference="logging"))
    return MessageSection("messaging", [rollout], daily, [example])


def slate(words: Sequence[str]) -> list[ShownItem]:
    """A slate of titled items."""
    return [
        ShownItem(title, creator, "podcast" if "Letters" in title else "track", tags=("dream pop", "slow"))
        for title, creator in (word.split(" / ") for word in words)
    ]


def habit() -> HabitSection:
    """Habit of people who come more and more often."""
    rng = np.random.default_rng(5)

    def measures(tenth: int) -> dict[str, Interval]:
        means = {"regularity": 0.2, "predictability": 0.02 * tenth, "own_predictability": 0.01 * tenth, "auc": 0.7}
        means |= {"unprompted": 0.9, "sticky_days": 0.1 * tenth, "own_regularity": 0.15, "frequency": 0.6 * tenth}
        return {name: Interval(mean, mean - 0.02, mean + 0.03, 0.01, 50) for name, mean in means.items()}

    gap = {name: rng.geometric(p, 400).astype(float) for name, p in (("tenths 1 to 3", 0.2), ("tenths 8 to 10", 0.6))}
    return HabitSection(
        users=900,
        people=600,
        grouped=500,
        days=60.0,
        overall=measures(5),
        tenths=[FrequencyTenth(t, 50, 0.6 * t - 0.3, 0.6 * t + 0.2, measures(t)) for t in range(1, 11)],
        returns={name: kaplan_meier(days.clip(0, 20), days < 20, np.arange(400) // 8) for name, days in gap.items()},
        time_to_habit=kaplan_meier(7.0 * rng.integers(0, 6, 300), rng.random(300) < 0.4),
        habit_weeks=4,
        sticky_window=28,
        settings={"earlier_share": 0.5, "habit_days": 3, "habit_weeks": 4, "prompt_hours": 24.0, "new_days": 7},
    )


def world_inputs(seeds: int = 1) -> ReportInputs:
    """A demo run in a simulated world: every section but what a log lacks."""
    rng = np.random.default_rng(0)
    n = 6000
    p_log = rng.normal(-22, 2, n)
    near = np.minimum(p_log + rng.normal(-0.02, 0.2, n), 0)
    far = np.minimum(p_log + rng.normal(-7, 4, n), 0)
    reward, user = rng.normal(3.1, 1.0, n), np.arange(n) // 6
    q, v = reward * 0.4 + 1.8, np.full(n, 3.15)
    off_policy = {
        "sft": off_policy_value(LoggedRounds(p_log, near, reward, user, q, v), OffPolicySettings()),
        "ppo": off_policy_value(LoggedRounds(p_log, far, reward, user, q, v), OffPolicySettings()),
    }
    exposure = {}
    for name, evenness in zip(POLICIES, (0.6, 0.5, 1.6, 0.8, 1.0, 0.7)):
        share = np.arange(1, 601.0) ** -evenness
        shown = rng.choice(600, size=(4000, 5), p=share / share.sum()).astype(np.int32)
        exposure[name] = {
            "coverage": of_slates(shown, 600).coverage(),
            "effective_items": of_slates(shown, 600).effective_items(),
            "gini": of_slates(shown, 600).gini(),
            "top_10_percent_share": of_slates(shown, 600).top_share(),
            "slate_entropy": 18.0 - 4 * evenness,
        }
    history = [
        ShownItem("Slow Weather", "Mira Holt", "track", ("dream pop",), "complete"),
        ShownItem("You Won't Believe This Drop", "DJ Bait", "track", ("edm",), "skip"),
        ShownItem("Letters from a Lighthouse", "The Long Read", "podcast", ("stories",), "save"),
    ]
    today = ["You Won't Believe This Drop / DJ Bait", "Instant Hit / DJ Bait", "Slow Weather / Mira Holt"]
    after = ["Slow Weather / Mira Holt", "Harbour Lights / Mira Holt", "Letters to the Sea / The Long Read"]
    listeners = [
        ListenerSlates(
            listener=f"Listener {i + 1}",
            moment="Tuesday 08:00, now playing, last heard 14 hours ago",
            says="something slower for the train" if i == 1 else None,
            history=history,
            slates={"sft": slate(today), "dpo_click": slate(today[::-1]), "ppo": slate(after)},
        )
        for i in range(3)
    ]
    gain = Interval(0.004, -0.001, 0.009, 0.002, 900)
    return ReportInputs(
        run="demo",
        source="simulated world clickbait",
        preset="nano",
        world=WorldSection(rollouts(seeds), "clickbait"),
        rewards=RewardSection(
            {
                "returned_7d": HeadQuality("auc", 0.741, baselines(0.733), 0.012, curve(1, 0.1, 0.95), 18_000, 0.0093),
                "return_days": HeadQuality("c_index", 0.668, baselines(0.655), None, None, 18_000),
                "habit_28": HeadQuality("c_index", 0.702, baselines(0.705), 0.08, curve(2, 0.0, 3.6), 9_000),
                "plays": HeadQuality("c_index", 0.64, {"popularity": 0.59}, 0.05, curve(3, 0.5, 4.0), 18_000),
            },
            {"correlation_with_true_item_effect": 0.71, "share_of_slates_off_support": 0.02},
        ),
        off_policy=OffPolicySection("active_days_7", off_policy),
        ranking=RankingSection(
            {
                "transition_count": result(0.062, None),
                "popularity": result(0.031, Interval(-0.031, -0.036, -0.026, 0.002, 900)),
                "sft": result(0.066, gain),
                "dpo": result(0.058, gain),
                "ppo": result(0.051, Interval(-0.011, -0.016, -0.006, 0.002, 900)),
            },
            "The next item of a sitting, on the last seven days.",
        ),
        exposure=ExposureSection(exposure),
        fairness=fairness(),
        pareto=pareto(),
        semantic_ids=[IdLevel(0, 8, 8, 7.9, 0.71, 0.13), IdLevel(1, 8, 8, 7.8, 0.32, 0.017)],
        habit=habit(),
        messages=messages(),
        slates=listeners,
        notes=("The reward model saw 60 days of 5,000 listeners.",),
        timing={
            "world": 8.2,
            "catalog": 3.1,
            "outcomes": 5.0,
            "rewards": 121.0,
            "sft": 160.0,
            "dpo": 95.0,
            "ppo": 140.0,
        },
        manifest={"seed": 0, "config": {"preset": "nano", "listeners": 5000}, "packages": {"torch": "2.13.0"}},
    )


def log_inputs() -> ReportInputs:
    """A run on a real log without impressions or propensities."""
    n = 3000
    refused = off_policy_value(
        LoggedRounds(None, np.full(n, -20.0), np.random.default_rng(0).normal(size=n), np.arange(n) // 4),
        OffPolicySettings(),
    )
    full = world_inputs()
    return ReportInputs(
        run="globo",
        source="log clicks_sample_1in32_users.parquet, reader globo",
        preset="nano",
        rewards=RewardSection(
            {"returned_1d": HeadQuality("auc", 0.702, {"RFM + trees": 0.695}, 0.01, curve(4, 0.05, 0.8), 8_000)}
        ),
        off_policy=OffPolicySection("returned_7d", {"sft": refused, "ppo": refused}),
        ranking=full.ranking,
        slates=full.slates,
        missing=(
            Missing("impressions", "The items of a session stand for its slate."),
            Missing("propensities", "Off-policy values are refused."),
        ),
        timing={"logs": 2.0, "rewards": 60.0},
        manifest={"seed": 0},
    )
