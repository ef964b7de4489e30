"""Who comes, who stays away, who leaves for good: how past sessions decide on future ones.

In each slot of a day a listener comes with

    logit p = own rhythm + visit_satisfaction s + visit_habit h_c + visit_favourites (1 - exp(-n / 4))
              + commute_spill h_commute - visit_annoyance a

* Satisfaction s is an exponential average of how sessions went, s <- (1 - r) s + r e; it drives the hazard of return
  (Kapoor et al., A hazard based approach to user return time prediction, KDD 2014; Bolton, Marketing Science 1998).
* Habit h_c belongs to a context c, a slot of the day on weekdays or at the weekend: habits are tied to their cues (Wood
  & Neal, Psychological Review 2007). A satisfying visit near the usual hour closes a share of what is missing to 1, the
  asymptotic curve of Lally et al. (European Journal of Social Psychology 2010); a context that passes without a visit
  loses a share. Predictable people answer less to nudges (Buyalskaya et al., PNAS 2023; data/world/messages.py).
* n creators have stuck with the listener: what was discovered is what one comes back for (Maystre, Russo & Zhao,
  Optimizing audio recommendations for the long-term, 2023).
* A commute's habit carries over to the rest of the day: podcasts add listening rather than replace it (Li et al., WWW
  2020).
* Every night one may leave, the less likely the more satisfied and used to it, and stay away but for a small daily
  chance of coming back (the dropout process of Schmittlein, Morrison & Colombo, Management Science 1987; regained
  customers: Thomas, Blattberg & Fox, Journal of Marketing Research 2004).
* Free listeners buy the subscription when satisfied (Oestreicher-Singer & Zalmanson, MIS Quarterly 2013, on Last.fm).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data.world.dynamics import Aftertaste, Session, sigmoid
from data.world.items import Items
from data.world.listeners import Listeners, context_of
from data.world.settings import COMMUTE, FAVOURITES, DynamicsSettings, MessageSettings
from data.world.state import State


def visit_probability(
    state: State, traits: Listeners, settings: DynamicsSettings, messages: MessageSettings
) -> NDArray[np.float32]:
    """Probability (U,) of a visit in the state's slot if nothing is sent; 0 for those who left."""
    context = context_of(state.day, state.slot)
    logit = traits.visit_logit[:, state.day % 7] + traits.slot_logit[:, context]
    logit = logit + settings.visit_satisfaction * state.satisfaction + settings.visit_habit * state.habit[:, context]
    if settings.visit_favourites:
        stuck = (state.familiarity >= settings.favourite_at).sum(axis=1)
        logit += (settings.visit_favourites * (1.0 - np.exp(-stuck / FAVOURITES))).astype(np.float32)
    if context != COMMUTE:
        logit += settings.commute_spill * state.habit[:, COMMUTE] * traits.commuter
    logit -= messages.visit_annoyance * state.annoyance.sum(axis=1)
    return np.where(state.gone, np.float32(0.0), sigmoid(logit))


def after_session(
    state: State,
    traits: Listeners,
    items: Items,
    settings: DynamicsSettings,
    listeners: NDArray[np.int32],
    slates: NDArray[np.int32],
    session: Session,
    after: Aftertaste,
    hours_off: NDArray[np.float32],
) -> None:
    """What the slot's visits (B,) leave behind: satisfaction, satiation, familiarity, and habit of all U listeners."""
    s, context = settings, context_of(state.day, state.slot)
    state.satiation[listeners], state.tired[listeners] = after.satiation, after.tired
    state.familiarity[listeners] = after.familiarity
    rate = s.satisfaction_rate
    state.satisfaction[listeners] = (1.0 - rate) * state.satisfaction[listeners] + rate * session.enjoyment
    gain = s.habit_gain * timeliness(s, hours_off) * np.maximum(session.enjoyment, 0.0)
    if context == COMMUTE and s.commute_gain:
        heard = (session.completed & items.spoken[slates]).any(axis=1) & traits.commuter[listeners]
        gain *= 1.0 + s.commute_gain * heard
    came = np.zeros(len(traits), np.bool_)
    came[listeners] = True
    habit = state.habit[:, context]
    habit[~came] *= 1.0 - s.habit_decay
    habit[listeners] += np.minimum(gain, 1.0) * (1.0 - habit[listeners])
    state.habit[:, context] = habit


def timeliness(settings: DynamicsSettings, hours_off: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far a visit counts towards the habit, 1 at the usual hour."""
    near: NDArray[np.float32] = np.exp(-0.5 * np.square(hours_off / settings.habit_hours))
    return near


def convert_probability(
    settings: DynamicsSettings, satisfaction: NDArray[np.float32], offer: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Probability that a free listener subscribes in a session that left them this satisfied; `offer`: logits more."""
    return sigmoid((settings.convert_base + settings.convert_satisfaction * satisfaction + offer).astype(np.float32))


def leave_and_return(state: State, settings: DynamicsSettings, luck: NDArray[np.float32]) -> None:
    """The night's departures and homecomings; `luck` (U, 2) uniform. Who leaves cancels; who returns starts afresh."""
    s = settings
    logit = s.churn_base - s.churn_satisfaction * state.satisfaction - s.churn_habit * state.habit.max(axis=1)
    leaves = ~state.gone & (luck[:, 0] < sigmoid(logit.astype(np.float32)))
    returns = state.gone & (luck[:, 1] < s.win_back)
    state.gone |= leaves
    state.premium &= ~leaves
    bring_back(state, returns)


def bring_back(state: State, returns: NDArray[np.bool_]) -> None:
    """Listeners (U,) who come back after having left: bygones are bygones, and the old habit is what is left of it."""
    state.gone &= ~returns
    state.satisfaction[returns] = 0.0
    state.annoyance[returns] = 0.0
