"""What a report is made of. A caller fills these; every section may be left out, and then is not on the page.

Numbers come in as the results of the room's own functions (rollouts, off-policy values, ranking results), so that a
report cannot print what nobody computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from eval.diagnostics import Check
from eval.intervals import Interval
from eval.messages import MessageSection
from eval.off_policy import OffPolicyValue
from eval.ranking import RankingResult
from eval.rollout import Rollout
from eval.sensitivity import SensitivityBounds
from eval.support import Support
from eval.survival import SurvivalCurve
from rewards.pareto import Front


@dataclass(frozen=True)
class WorldSection:
    """Truth from a simulated world: one rollout per seed."""

    rollouts: Sequence[Rollout]
    world: str = ""


@dataclass(frozen=True)
class WorldPortrait:
    """What a simulated world is like (`eval.world_section`), played by its built-in policies to fresh listeners.

    habit: policy -> mean strength of the strongest habit after each day. returns: what was shown -> days to the next
    session, under the random policy. policies, message_policies: policy -> metric -> mean; the latter may be empty.
    """

    world: str
    listeners: int
    days: int
    habit: Mapping[str, Sequence[Interval]]
    returns: Mapping[str, SurvivalCurve]
    policies: Mapping[str, Mapping[str, Interval]]
    message_policies: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)


@dataclass(frozen=True)
class Reliability:
    """A calibration curve: per bin the mean prediction, the mean outcome and how many rows; counts in days etc. too."""

    predicted: Sequence[float]
    observed: Sequence[float]
    rows: Sequence[int]


@dataclass(frozen=True)
class HeadQuality:
    """One outcome head on the later slice.

    score_name: "auc" (probabilities) or "c_index" (times and counts); higher is better. baselines: the same score of
    what people would otherwise use. ece: expected calibration error, as a share of the most there can be;
    ece_chance: what a right forecast of as many users stays below in 19 of 20 cases.
    """

    score_name: str
    score: float
    baselines: Mapping[str, float]
    ece: float | None = None
    reliability: Reliability | None = None
    rows: int | None = None
    ece_chance: float | None = None


@dataclass(frozen=True)
class RewardSection:
    """Heads by label. `advantage`: named numbers on how well the advantage is known, in a world against truth."""

    heads: Mapping[str, HeadQuality]
    advantage: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class OffPolicySection:
    """Off-policy values by policy; `reward` is the label, or words for the outcome, that is being valued.

    checks: by policy, numbers whose true value is known (eval/diagnostics.py), where the log supports a value.
    overlap: by policy and segment of listeners, what the log supports. sensitivity: by policy, bounds on its difference
    from logging, where the log's propensities are somebody's word (eval/sensitivity.py).
    left_out: reason -> decisions that policies cannot be asked about again (eval/scorable.py).
    """

    reward: str
    values: Mapping[str, OffPolicyValue]
    checks: Mapping[str, Sequence[Check]] = field(default_factory=dict)
    overlap: Mapping[str, Mapping[str, Support]] = field(default_factory=dict)
    sensitivity: Mapping[str, Sequence[SensitivityBounds]] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RankingSection:
    """Next-item ranking by policy name, floors included; `about` says what was asked of whom."""

    results: Mapping[str, RankingResult]
    about: str = ""


@dataclass(frozen=True)
class IdLevel:
    """One level of the semantic IDs, a row of `data.semantic_ids.quality`."""

    level: int
    size: int
    used: int
    perplexity: float
    share: float
    random: float


@dataclass(frozen=True)
class ExposureSection:
    """What policies show: policy -> the numbers of `Exposure.summary`."""

    policies: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class FairnessSection:
    """How a gain and the showings are spread (`eval.fairness`).

    by_tenth: policy, and "consumed" for what listeners took in the log -> share on each tenth of creators, the most
    consumed first. ranked, count: what the tenths are of ("creators" or "items"), how many. by_kind: the same names ->
    kind of item -> share. people: segment -> listeners; gains: policy -> segment -> active days of 28 less SFT's.
    """

    ranked: str
    count: int
    by_tenth: Mapping[str, Sequence[float]]
    by_kind: Mapping[str, Mapping[str, float]]
    people: Mapping[str, int] = field(default_factory=dict)
    gains: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)


@dataclass(frozen=True)
class ParetoSection:
    """The reward model's front between two outcomes, on so many later decisions with so many candidate slates each."""

    front: Front
    decisions: int
    candidates: int


@dataclass(frozen=True)
class FrequencyTenth:
    """One of ten groups of people by how often they come: `low` to `high` days a week. measures: name -> mean."""

    tenth: int
    people: int
    low: float
    high: float
    measures: Mapping[str, Interval]


@dataclass(frozen=True)
class HabitSection:
    """Habit in the log (`eval.habit`): `people` looked at of `users`, of whom `grouped` were followed long enough.

    days: how long the log is. overall, tenths: the measures of all people and by frequency. returns: group -> days from
    an active day to the next. time_to_habit: days to the first of `habit_weeks` weeks in a row. sticky_window: days
    in which coming back to a discovery counts. left_out: measure -> why this log cannot carry it.
    """

    users: int
    people: int
    grouped: int
    days: float
    overall: Mapping[str, Interval]
    tenths: Sequence[FrequencyTenth]
    returns: Mapping[str, SurvivalCurve]
    time_to_habit: SurvivalCurve | None
    habit_weeks: int
    sticky_window: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownItem:
    """An item as a person would see it. `reaction` is set in histories."""

    title: str
    creator: str | None = None
    kind: str | None = None
    tags: Sequence[str] = ()
    reaction: str | None = None


@dataclass(frozen=True)
class ListenerSlates:
    """One listener at one moment: what they did last, what they said, and each policy's slate for them."""

    listener: str
    moment: str
    history: Sequence[ShownItem]
    slates: Mapping[str, Sequence[ShownItem]]
    says: str | None = None


@dataclass(frozen=True)
class Missing:
    """What this log does not have ("impressions", or a label), and what the report does instead or refuses."""

    what: str
    consequence: str


@dataclass(frozen=True)
class Comparison:
    """Another run's report.json, to be read beside this one.

    rollout: the other run's policies, played to the very listeners of this run's rollout; None where that cannot be.
    """

    label: str
    report: Mapping[str, object]
    rollout: Rollout | None = None


@dataclass(frozen=True)
class ReportInputs:
    """Everything on the page. `run` names the run, `source` the log or world, `preset` the model."""

    run: str
    source: str
    preset: str
    world: WorldSection | None = None
    rewards: RewardSection | None = None
    off_policy: OffPolicySection | None = None
    ranking: RankingSection | None = None
    exposure: ExposureSection | None = None
    fairness: FairnessSection | None = None
    pareto: ParetoSection | None = None
    semantic_ids: Sequence[IdLevel] = ()
    habit: HabitSection | None = None
    portrait: WorldPortrait | None = None
    messages: MessageSection | None = None
    slates: Sequence[ListenerSlates] = ()
    missing: Sequence[Missing] = ()
    notes: Sequence[str] = ()
    comparison: Comparison | None = None
    timing: Mapping[str, float] = field(default_factory=dict)  # stage -> seconds
    manifest: Mapping[str, object] = field(default_factory=dict)
    candidate: str | None = None  # the policy the answer is about; None = the mid-term policy with the best lower bound
