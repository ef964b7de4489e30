"""What is claimed of messages, over seeds, by `scripts/claims.py --about messages`.

Every seed is a fresh world, log, message reward and, with `language_model`, policy. All are played to the same fresh
listeners for 28 days with the same luck and the same slates. The claim: more active days than rules with caps and than
the learned opens, at no more sends, with more listeners still reachable, every paired interval on its side of zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.messages import MessageSection, fresh_evening, play_messages, pooled_sections, sent_by
from eval.report.messages import messages_json, style
from eval.rollout import paired_json
from rewards.messages import NAME
from scripts.evaluate import message_speakers
from scripts.opened import open_run
from scripts.road import Stage, travel, workers_here
from scripts.run import RunArguments, stages

OURS = ("reward", "policy")
OTHERS = ("rules", "clicks", "send_always", "hold", "logging")
CLAIMED = ("rules", "clicks")  # who is beaten at all three
SHOWN = ("active_days_28", "messages_28", "reachable_28", "converted_28", "opens_28")
REWARD_STAGES = ("logs", "catalog", f"rewards/{NAME}")
POLICY_STAGES = ("policy/sft", "policy/messages")


def message_stages(road: RunArguments, language_model: bool) -> list[Stage]:
    """Those stages of the road that messages need."""
    needed = {*REWARD_STAGES, *(POLICY_STAGES if language_model else ())}
    return [stage for stage in stages(road) if stage.name in needed]


def one_seed(road: RunArguments, listeners: int, language_model: bool, console: Console) -> MessageSection:
    """Make what messages need, and play everybody to fresh listeners."""
    console.rule(f"[bold]{road.world}, seed {road.seed}", align="left")
    travel(message_stages(road, language_model), road.workers or workers_here(), Path(road.run))
    run = open_run(Path(road.run))
    tuned = message_speakers(run.folder, run.catalog, run.store.items()) if language_model else {}
    evening = fresh_evening(road.world, road.seed, listeners)
    return play_messages(evening, sent_by(evening, run.folder / "rewards" / NAME, tuned), seed=road.seed)


def findings(sections: Sequence[MessageSection]) -> dict[str, Any]:
    """{"world", "seeds", "listeners", "policies", "paired": {"reward - rules": {metric: {diff, lo, hi}}}, "holds"}."""
    told = messages_json(pooled_sections(sections))
    rollouts = [rollout for section in sections for rollout in section.rollouts]
    names = set(rollouts[0].metrics)
    pairs = [(one, other) for one in OURS for other in OTHERS] + [("policy", "reward")]
    paired: dict[str, Any] = {f"{a} - {b}": paired_json(rollouts, a, b) for a, b in pairs if {a, b} <= names}
    return {name: told[name] for name in ("world", "seeds", "listeners", "policies")} | {
        "paired": paired,
        "holds": {
            f"{one} over {other}": holds(paired[f"{one} - {other}"])
            for one in OURS
            for other in CLAIMED
            if f"{one} - {other}" in paired
        },
    }


def holds(gap: Mapping[str, Mapping[str, float]]) -> bool:
    """More active days, no more sends and more reach, each beyond chance."""
    more = gap["active_days_28"]["lo"] > 0 and gap["reachable_28"]["lo"] > 0
    return more and gap["messages_28"]["hi"] <= 0


def print_findings(found: Mapping[str, Any], console: Console) -> None:
    """Policies, paired differences and what holds."""
    title = f"messages in world {found['world']}, seeds {found['seeds']}, {found['listeners']:,} listeners"
    policies = Table("policy", *SHOWN, title=title)
    for place, (name, by) in enumerate(found["policies"].items()):
        cells = [f"{by[m]['mean']:.3f} [{by[m]['lo']:.3f}, {by[m]['hi']:.3f}]" for m in SHOWN]
        policies.add_row(style(name, place).label, *cells)
    console.print(policies)
    pairs = Table("pair", *SHOWN, title="paired differences (listeners pooled; in brackets Student's t over seeds)")
    for name, by in found["paired"].items():
        pairs.add_row(name, *(_cell(by[metric]) for metric in SHOWN))
    console.print(pairs)
    for name, verdict in found["holds"].items():
        console.print(f"{name}: {'holds' if verdict else 'does not hold'}")


def _cell(gap: Mapping[str, float]) -> str:
    seeds = f" ({gap['seeds_lo']:+.2f}, {gap['seeds_hi']:+.2f})" if "seeds_lo" in gap else ""
    return f"{gap['diff']:+.3f} [{gap['lo']:+.3f}, {gap['hi']:+.3f}]{seeds}"
