"""What a simulated streaming service is made of, and the worlds that have a name.

The numbers are fixed by what a service looks like from outside (active days, skip rate, weekly rhythm) and by how far
hidden truth can move it; no learned policy had a say in them. `PRESETS` is the list of worlds by name:

* `clickbait`: what is tapped is not what brings people back (allure and quality pull against each other);
* `calm`: allure and quality mildly agree, so the tap is an honest if weak signal;
* `null`: visits are deaf to what was played. Every claim about return must vanish here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType

from data.histories import HISTORY_LENGTH


@dataclass(frozen=True)
class CatalogSettings:
    """The items: how many, how they cluster, and how allure relates to quality."""

    items: int = 600
    creators: int = 120
    styles: int = 12  # at most the number of styles that data.world.words has words for
    dimensions: int = 8  # of the taste space in which items and listeners live
    kind_shares: tuple[tuple[str, float], ...] = (("track", 0.8), ("podcast", 0.13), ("audiobook", 0.07))
    style_spread: float = 0.45  # distance of an item from the centre of its style, as a share of a unit vector
    allure_quality_correlation: float = -0.42
    creator_share: float = 0.3  # share of the variance of quality and allure that an item owes to its creator
    popularity_noise: float = 0.5  # standard deviation of what the product gets wrong about allure
    embedding_noise: float = 0.6  # norm of what the product gets wrong about an item's place in taste space


@dataclass(frozen=True)
class ListenerSettings:
    """The people: tastes, rhythms and how often they would come if nothing ever happened to them."""

    listeners: int = 5_000
    visit_logit_mean: float = -1.05
    visit_logit_spread: float = 0.8
    weekend_logit: float = -0.15  # mean change of the visit logit on Saturday and Sunday
    weekday_spread: float = 0.35  # standard deviation of a listener's own weekday effects, in logits
    taste_drift: float = 0.06  # per day, Ornstein-Uhlenbeck around the listener's home taste
    taste_pull: float = 0.02  # per day, back to the home taste
    kind_spread: float = 0.5  # standard deviation of a listener's liking for podcasts and audiobooks
    hour_spread: float = 1.3  # hours, around the usual hour, on days that follow the habit
    usual_hour_share: float = 0.7  # of visits; the others fall anywhere in the day
    premium_share: float = 0.35
    time_zones: tuple[tuple[str, int], ...] = (("UTC", 0), ("America/Bogota", -5), ("Asia/Tokyo", 9))  # hours, no DST


@dataclass(frozen=True)
class DynamicsSettings:
    """How a session plays out and what it leaves behind. Logits unless said otherwise."""

    slate_size: int = 5
    examination: tuple[float, ...] = (0.98, 0.9, 0.81, 0.73, 0.66)  # share of sessions that get to each position
    play_base: float = -0.6
    play_allure: float = 1.0
    play_match: float = 0.6
    enjoy_base: float = 0.4
    enjoy_quality: float = 0.9
    enjoy_match: float = 0.65
    enjoy_noise: float = 0.5
    complete_base: float = 0.6
    complete_enjoyment: float = 1.4
    save_base: float = -3.2
    save_enjoyment: float = 1.3
    dislike_base: float = -3.6
    dislike_enjoyment: float = 1.2
    satiation_weight: float = 0.6  # enjoyment lost per unit of satiation with the item's style
    satiation_gain: float = 0.25  # per play
    satiation_recovery: float = 0.12  # share lost per day
    satisfaction_rate: float = 0.3  # weight of the last session in the exponential average
    habit_gain: float = 0.2  # of what is still missing, per fully satisfying session at the usual hour
    habit_decay: float = 0.03  # share lost per day without a visit
    habit_hours: float = 2.0  # how far from the usual hour still counts, standard deviation in hours
    visit_satisfaction: float = 2.4  # visit logit per unit of satisfaction
    visit_habit: float = 2.0  # visit logit per unit of habit
    steer_share: float = 0.08  # of sessions in which the listener says what they want
    steer_shift: float = 0.7  # how far the taste of the moment moves towards what was asked for
    convert_base: float = -7.0
    convert_satisfaction: float = 3.0
    history_length: int = HISTORY_LENGTH  # interactions in a context


@dataclass(frozen=True)
class LoggingSettings:
    """The policy that wrote the log: popularity and a rough idea of taste, with honest exploration."""

    popularity: float = 0.6
    match: float = 0.7
    asked: float = 1.0  # for an item of a style or kind that the listener named by its plain name
    temperature: float = 1.0


@dataclass(frozen=True)
class WorldSettings:
    """Everything that fixes a world but its seed."""

    name: str = "clickbait"
    start: datetime = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
    catalog: CatalogSettings = field(default_factory=CatalogSettings)
    people: ListenerSettings = field(default_factory=ListenerSettings)
    dynamics: DynamicsSettings = field(default_factory=DynamicsSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)

    def with_listeners(self, listeners: int) -> WorldSettings:
        """The same world with another number of listeners; its items stay the same for the same seed."""
        return replace(self, people=replace(self.people, listeners=listeners))


_CLICKBAIT = WorldSettings()

PRESETS: Mapping[str, WorldSettings] = MappingProxyType(
    {
        "clickbait": _CLICKBAIT,
        "calm": replace(
            _CLICKBAIT,
            name="calm",
            catalog=replace(_CLICKBAIT.catalog, allure_quality_correlation=0.25),
            people=replace(_CLICKBAIT.people, visit_logit_mean=-1.7),
        ),
        "null": replace(
            _CLICKBAIT,
            name="null",
            people=replace(_CLICKBAIT.people, visit_logit_mean=-0.75),
            dynamics=replace(_CLICKBAIT.dynamics, visit_satisfaction=0.0, visit_habit=0.0, convert_satisfaction=0.0),
        ),
    }
)
