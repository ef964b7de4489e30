"""What a simulated streaming service is made of: people, catalog, dynamics, messages, and a switch for each dynamic.

`in_force` turns the switches into numbers: a dynamic that is off has the strength zero everywhere, so no other file
knows of switches. The named worlds are in `data.world.presets`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime

from data.errors import InputError
from data.histories import HISTORY_LENGTH

SLOTS = ("morning", "daytime", "evening")
SLOT_HOURS = ((6.0, 11.0), (11.0, 16.0), (16.0, 21.95))  # local hours in which a visit of the slot may start
CONTEXTS = 2 * len(SLOTS)  # habit contexts: each slot on weekdays, then each at the weekend
COMMUTE = 0  # the context that a commute podcast belongs to: weekday mornings
FAVOURITES = 4.0  # creators; what those that stuck add to visits has come 1 - 1/e of its way at so many
CHANNELS = ("push", "email", "in_app")


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
    """The people: tastes, rhythms and how often they would come if nothing ever happened to them. Rates are a day."""

    listeners: int = 5_000
    visit_logit_mean: float = -2.45  # of a visit in one of the day's slots
    visit_logit_spread: float = 0.75
    weekend_logit: float = -0.15  # mean change of the visit logit on Saturday and Sunday
    weekday_spread: float = 0.3  # standard deviation of a listener's own weekday effects, in logits
    slot_spread: float = 0.9  # standard deviation of a listener's own slot effects, in logits
    slot_logits: tuple[float, ...] = (-0.2, -0.5, 0.35, -0.7, -0.1, 0.35)  # what all share, by context
    commuters: float = 0.35  # share of listeners
    commute_logit: float = 0.8  # of a commuter's visit on a weekday morning
    taste_drift: float = 0.06  # Ornstein-Uhlenbeck around the listener's home taste
    taste_pull: float = 0.02  # back to the home taste
    kind_spread: float = 0.5  # standard deviation of a listener's liking for podcasts and audiobooks
    hour_spread: float = 0.9  # hours, around the usual hour of the slot, on days that follow the habit
    usual_hour_share: float = 0.7  # of visits; the others fall anywhere in the slot
    premium_share: float = 0.4
    consents: tuple[float, ...] = (0.55, 0.75, 1.0)  # share who agreed to be reached, by channel
    time_zones: tuple[str, ...] = ("Europe/Stockholm", "America/New_York", "America/Bogota", "Asia/Tokyo")


@dataclass(frozen=True)
class DynamicsSettings:
    """How a session plays out and what it leaves behind. Logits unless said otherwise; recoveries are a day."""

    slate_size: int = 5
    examination: tuple[float, ...] = (0.98, 0.9, 0.81, 0.73, 0.66)  # share of sessions that get to each position
    play_base: float = -0.6
    play_allure: float = 1.0
    play_match: float = 0.6
    enjoy_base: float = 0.75
    enjoy_quality: float = 0.9
    enjoy_match: float = 0.65
    enjoy_noise: float = 0.5
    complete_base: float = 0.1
    complete_enjoyment: float = 1.4
    save_base: float = -3.2
    save_enjoyment: float = 1.3
    dislike_base: float = -3.6
    dislike_enjoyment: float = 1.2
    satiation_weight: float = 0.5  # enjoyment lost per unit of satiation with the item's style
    satiation_gain: float = 0.25  # per play
    satiation_recovery: float = 0.12  # share lost per day
    creator_satiation_weight: float = 0.4
    creator_satiation_gain: float = 0.3
    creator_satiation_recovery: float = 0.12
    exposure_cost: float = 0.3  # enjoyment lost with a creator never met; falls by e with every good meeting
    exposure_forgetting: float = 0.01  # share of familiarity lost per day
    favourite_at: float = 2.0  # familiarity from which a creator has stuck
    visit_favourites: float = 0.4  # visit logit with many creators that stuck: approached by 1 - exp(-count / 4)
    satisfaction_rate: float = 0.25  # weight of the last session in the exponential average
    habit_start: float = 0.1
    habit_gain: float = 0.12  # of what is still missing, per fully satisfying session at the usual hour
    habit_decay: float = 0.02  # share lost per occurrence of the context without a visit
    habit_hours: float = 2.0  # how far from the usual hour still counts, standard deviation in hours
    visit_satisfaction: float = 2.4  # visit logit per unit of satisfaction
    visit_habit: float = 2.2  # visit logit per unit of the context's habit
    commute_match: float = 0.5  # added to a commuter's match with spoken word on weekday mornings
    commute_gain: float = 0.5  # habit grows by so much more when such a session completes spoken word
    commute_spill: float = 0.4  # visit logit of the other contexts per unit of the commute's habit
    ad_cost: float = 0.1  # enjoyment that advertising costs free listeners
    convert_base: float = -7.2
    convert_satisfaction: float = 3.0
    churn_base: float = -6.2  # of leaving, per night
    churn_satisfaction: float = 1.5  # less of it per unit of satisfaction
    churn_habit: float = 2.0  # less of it per unit of the strongest habit
    win_back: float = 0.006  # probability that somebody who left comes back of their own, per day
    steer_share: float = 0.08  # of sessions in which the listener says what they want
    steer_shift: float = 0.7  # how far the taste of the moment moves towards what was asked for
    history_length: int = HISTORY_LENGTH  # interactions in a context


@dataclass(frozen=True)
class MessageSettings:
    """What messages do. By channel: push, email, in_app. Logits unless said otherwise."""

    opportunities: int = 4  # at most, per listener and day
    appears: float = 0.5  # probability that each of them is there
    value_noise: float = 0.5  # standard deviation of what the domains get wrong about relevance
    open_base: tuple[float, ...] = (-2.9, -3.8, -1.6)
    open_relevance: float = 0.9  # per unit of relevance, which is standard normal over opportunities
    open_annoyance: float = 0.8  # less of it per unit of annoyance with the channel
    open_habit: float = 0.8  # less of it per unit of the context's habit: who comes anyway needs no nudge
    open_brings: bool = True  # an opened push or e-mail is a visit
    annoyance: tuple[float, ...] = (0.4, 0.25, 0.1)  # added by a message, by channel, at no relevance
    annoyance_relevance: float = 0.5  # share of it that a relevance of one standard deviation saves
    annoyance_quiet: float = 3.0  # times as much in quiet hours
    annoyance_recovery: float = 0.07  # share lost per day
    opt_out_base: tuple[float, ...] = (-6.0, -6.3, -7.5)  # of opting out of the channel, per message
    opt_out_annoyance: float = 2.2
    visit_annoyance: float = 0.25  # visit logit lost per unit of annoyance, all channels together
    nagging: float = 0.12  # share of the context's habit lost with a dismissed message per unit of annoyance
    offer_logit: float = 1.5  # of converting today after opening an offer, for free listeners
    win_back_opens: float = 0.35  # an opened win-back message brings somebody back who had left
    quiet_from: int = 21  # local hour; no policy of ours sends from here
    quiet_until: int = 8  # to here
    remembered: int = 8  # sends that a decision point knows of


@dataclass(frozen=True)
class LoggingSettings:
    """The policy that wrote the log: popularity and a rough idea of taste, with honest exploration."""

    popularity: float = 0.6
    match: float = 0.7
    asked: float = 1.0  # for an item of a style or kind that the listener named by its plain name
    temperature: float = 1.0
    hold: float = 0.7  # probability that it sends no message
    weekly_cap: int = 3  # messages per channel in seven days


@dataclass(frozen=True)
class OracleSettings:
    """How the oracle weighs what comes after the session; found by what it is worth in the world itself."""

    discovery: float = 0.1  # value of bringing a creator nearer to sticking, per logit of visits
    satiation: float = 0.1  # cost of a play to later sessions, per unit of satiation it adds


@dataclass(frozen=True)
class Switches:
    """Which dynamics are in force. What each is: see docs/world.md."""

    habit: bool = True
    satisfaction: bool = True
    satiation: bool = True
    exposure: bool = True
    allure: bool = True
    drift: bool = True
    rhythm: bool = True
    churn: bool = True
    position_bias: bool = True
    premium: bool = True
    commute: bool = True
    requests: bool = True
    messages: bool = False


@dataclass(frozen=True)
class WorldSettings:
    """Everything that fixes a world but its seed."""

    name: str = "clickbait"
    start: datetime = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
    catalog: CatalogSettings = field(default_factory=CatalogSettings)
    people: ListenerSettings = field(default_factory=ListenerSettings)
    dynamics: DynamicsSettings = field(default_factory=DynamicsSettings)
    messages: MessageSettings = field(default_factory=MessageSettings)
    logging: LoggingSettings = field(default_factory=LoggingSettings)
    oracle: OracleSettings = field(default_factory=OracleSettings)
    switches: Switches = field(default_factory=Switches)

    def with_listeners(self, listeners: int) -> WorldSettings:
        """The same world with another number of listeners; its items stay the same for the same seed."""
        return replace(self, people=replace(self.people, listeners=listeners))

    def without(self, *names: str) -> WorldSettings:
        """The same world with the dynamics of these names switched off. Raises InputError for an unknown name."""
        known = [field.name for field in fields(Switches)]
        for name in names:
            if name not in known:
                raise InputError(f"world: no switch {name!r}: choose from {', '.join(known)}")
        return replace(self, switches=replace(self.switches, **dict.fromkeys(names, False)))


def in_force(settings: WorldSettings) -> WorldSettings:
    """`settings` in which every dynamic that is switched off has no strength.

    Raises InputError when the settings do not fit together.
    """
    s, people, on = settings.dynamics, settings.people, settings.switches
    if len(s.examination) < s.slate_size:
        raise InputError(
            f"world {settings.name}: examination has {len(s.examination)} positions for slates of {s.slate_size}: "
            "give one share per position"
        )
    if settings.catalog.items < s.slate_size:
        raise InputError(f"world {settings.name}: {settings.catalog.items} items cannot fill a slate: raise items")
    if not on.habit:
        s = replace(s, habit_start=0.0, habit_gain=0.0, visit_habit=0.0, churn_habit=0.0, commute_spill=0.0)
    if not on.satisfaction:
        s = replace(s, visit_satisfaction=0.0, churn_satisfaction=0.0, convert_satisfaction=0.0)
    if not on.satiation:
        s = replace(s, satiation_weight=0.0, creator_satiation_weight=0.0)
    if not on.exposure:
        s = replace(s, exposure_cost=0.0, visit_favourites=0.0)
    if not on.allure:
        s = replace(s, play_allure=0.0)
    if not on.drift:
        people = replace(people, taste_drift=0.0, taste_pull=0.0)
    if not on.rhythm:
        people = replace(
            people,
            weekend_logit=0.0,
            weekday_spread=0.0,
            slot_spread=0.0,
            slot_logits=(0.0,) * CONTEXTS,
            commute_logit=0.0,
            usual_hour_share=0.0,
        )
    if not on.churn:
        s = replace(s, churn_base=float("-inf"))
    if not on.position_bias:
        s = replace(s, examination=(1.0,) * s.slate_size)
    if not on.premium:
        people, s = replace(people, premium_share=0.0), replace(s, ad_cost=0.0, convert_base=float("-inf"))
    if not on.commute:
        people = replace(people, commute_logit=0.0)
        s = replace(s, commute_match=0.0, commute_gain=0.0, commute_spill=0.0)
    if not on.requests:
        s = replace(s, steer_share=0.0)
    return replace(settings, dynamics=s, people=people)


def nothing_matters(settings: WorldSettings, name: str = "null") -> WorldSettings:
    """`settings` in which what is shown or sent moves the tap and nothing else: coming, leaving, paying are deaf."""
    s = replace(
        settings.dynamics,
        visit_satisfaction=0.0,
        visit_habit=0.0,
        visit_favourites=0.0,
        commute_spill=0.0,
        churn_satisfaction=0.0,
        churn_habit=0.0,
        convert_satisfaction=0.0,
    )
    deaf = replace(
        settings.messages,
        open_brings=False,
        visit_annoyance=0.0,
        offer_logit=0.0,
        win_back_opens=0.0,
        opt_out_annoyance=0.0,
        opt_out_base=(float("-inf"),) * len(CHANNELS),
    )
    return replace(settings, name=name, dynamics=s, messages=deaf)
