"""One test per switch: what the dynamic does, and that off means off."""

from dataclasses import fields, replace

import numpy as np
import pytest

from data.errors import InputError
from data.world import PRESETS, Switches, World, WorldSettings
from data.world.coming import after_session, leave_and_return, visit_probability
from data.world.dynamics import Aftertaste, Session, play_probability, play_session
from data.world.moments import moment_of
from data.world.settings import COMMUTE, CONTEXTS

BASE = PRESETS["clickbait"].with_listeners(200)
EVERYBODY = np.arange(200, dtype=np.int32)


def world(settings: WorldSettings = BASE, off: str | None = None) -> World:
    return World(settings.without(off) if off else settings, seed=0)


def chance(one: World) -> np.ndarray:
    return visit_probability(one.state, one.listeners, one.settings.dynamics, one.settings.messages)


def played(one: World, slates: np.ndarray, step: int = 0) -> tuple[Session, Aftertaste]:
    moment = moment_of(EVERYBODY, one.state, one.listeners, one.items, one.settings)
    return play_session(moment, slates, EVERYBODY, 200, step, 0)


def slate_of(items: np.ndarray) -> np.ndarray:
    return np.tile(items[:5].astype(np.int32), (200, 1))


def after(
    one: World, slates: np.ndarray, enjoyment: float, hours_off: float = 0.0, rows: np.ndarray = EVERYBODY
) -> None:
    """What a session of that enjoyment at that hour leaves behind, everything heard to its end."""
    session, taste = played(one, slates)
    session = replace(
        session,
        enjoyment=np.full(len(rows), enjoyment, np.float32),
        completed=np.ones((len(rows), 5), bool),
    )
    taste = Aftertaste(taste.satiation[rows], taste.tired[rows], taste.familiarity[rows])
    off = np.full(len(rows), hours_off, np.float32)
    after_session(one.state, one.listeners, one.items, one.settings.dynamics, rows, slates[rows], session, taste, off)


def test_every_switch_has_its_test() -> None:
    here = {name.removeprefix("test_switch_") for name in globals() if name.startswith("test_switch_")}
    assert {field.name for field in fields(Switches)} == here


def test_unknown_switches_are_refused() -> None:
    with pytest.raises(InputError, match="no switch 'habits'"):
        BASE.without("habits")


def test_switch_habit() -> None:
    """Lally et al. 2010: growth to a ceiling, by well-timed satisfying visits only; it fades when a context lapses."""
    one, slates = world(), slate_of(np.arange(5))
    gaps = []
    for _ in range(40):
        before = 1.0 - one.state.habit[0, COMMUTE]
        after(one, slates, enjoyment=0.6)
        gaps.append((1.0 - one.state.habit[0, COMMUTE]) / before)
    assert np.ptp(gaps) < 1e-3 and gaps[0] < 0.95  # the same share of what is missing, every time
    assert (one.state.habit[0, 1:] == one.settings.dynamics.habit_start).all()  # of this context only
    strong = chance(one)
    after(one, slates, enjoyment=-0.5)
    grown = one.state.habit[0, COMMUTE]
    after(one, slates, enjoyment=0.6, hours_off=8.0)
    assert one.state.habit[0, COMMUTE] == pytest.approx(grown, abs=1e-3)
    nobody = np.empty(0, np.int32)
    for _ in range(30):
        after(one, slates, 0.0, rows=nobody)
    assert one.state.habit[0, COMMUTE] == pytest.approx(grown * (1 - one.settings.dynamics.habit_decay) ** 30, rel=1e-2)
    assert (chance(one) < strong).all()
    off = world(off="habit")
    for _ in range(5):
        after(off, slates, 0.6)
    assert (off.state.habit == 0).all()


def test_switch_satisfaction() -> None:
    """An exponential average of enjoyment, and more of it means more visits and less leaving."""
    one, slates = world(), slate_of(np.arange(5))
    calm = chance(one)
    after(one, slates, 0.8, hours_off=24.0)
    rate = one.settings.dynamics.satisfaction_rate
    assert one.state.satisfaction[0] == pytest.approx(rate * 0.8)
    after(one, slates, 0.8, hours_off=24.0)
    assert one.state.satisfaction[0] == pytest.approx(rate * 0.8 * (2 - rate))
    assert (chance(one) > calm).all()
    off = world(off="satisfaction")
    before = chance(off)
    off.state.satisfaction[:] = 1.0
    np.testing.assert_array_equal(chance(off), before)


def test_switch_satiation() -> None:
    """The same style and creator again is enjoyed less; a rest brings it back."""
    one = world()
    same = slate_of(np.flatnonzero(one.items.creator == one.items.creator[0])[:5])
    first, tired = played(one, same)
    one.state.satiation[:], one.state.tired[:] = tired.satiation, tired.tired
    second, _ = played(one, same)
    assert second.enjoyment.mean() < first.enjoyment.mean() - 0.05
    peak = one.state.satiation.max()
    one.play(one.built_in("random"), 1, np.random.default_rng(0))
    for _ in range(40):
        one._sleep()
    assert one.state.satiation.max() < 0.05 * peak
    off = world(off="satiation")
    fresh, _ = played(off, same)
    off.state.satiation[:], off.state.tired[:] = 5.0, 5.0
    full, _ = played(off, same)
    np.testing.assert_array_equal(fresh.enjoyment, full.enjoyment)


def test_switch_exposure() -> None:
    """Mere exposure: a creator is enjoyed more after a few good meetings, and then is a reason to come back."""
    one, slates = world(PRESETS["discovery"].with_listeners(200)), slate_of(np.arange(5))
    new, _ = played(one, slates)
    calm = chance(one)
    one.state.familiarity[:, one.items.creator[:5]] = 3.0
    known, taste = played(one, slates)
    assert known.enjoyment.mean() > new.enjoyment.mean() + 0.1
    assert (chance(one) > calm).all()
    met = taste.familiarity.sum(axis=1) - one.state.familiarity.sum(axis=1)
    np.testing.assert_allclose(met, known.completed.sum(axis=1))  # good meetings are those heard to the end
    off = world(PRESETS["discovery"].with_listeners(200), off="exposure")
    new, _ = played(off, slates)
    calm = chance(off)
    off.state.familiarity[:] = 9.0
    known, _ = played(off, slates)
    np.testing.assert_array_equal(new.enjoyment, known.enjoyment)
    np.testing.assert_array_equal(chance(off), calm)


@pytest.mark.parametrize("off", [None, "allure"])
def test_switch_allure(off: str | None) -> None:
    """Allure draws taps and adds nothing to enjoyment; quality the reverse. Off, nothing tempts."""
    one = world(off=off)
    moment = moment_of(EVERYBODY, one.state, one.listeners, one.items, one.settings)
    everything = np.arange(len(one.items), dtype=np.int32)
    tap = play_probability(moment, moment.match(), everything).mean(axis=0)
    with_allure = np.corrcoef(tap, one.items.allure)[0, 1]
    assert with_allure > 0.9 if off is None else abs(with_allure) < 0.1
    lures, gems = np.argsort(-one.items.allure), np.argsort(-one.items.quality)
    lured, pleased = played(one, slate_of(lures))[0], played(one, slate_of(gems))[0]
    assert pleased.enjoyment.mean() > lured.enjoyment.mean() + 0.2
    assert (lured.played.mean() > pleased.played.mean() + 0.2) == (off is None)


@pytest.mark.parametrize("off", [None, "drift"])
def test_switch_drift(off: str | None) -> None:
    """Tastes wander about home and do not run away."""
    one = world(off=off)
    one.play(one.built_in("random"), 10, np.random.default_rng(0))
    moved = (one.state.taste - one.listeners.home_taste).std()
    people = BASE.people
    limit = people.taste_drift / np.sqrt(1 - (1 - people.taste_pull) ** 2)
    expected = limit * np.sqrt(1 - (1 - people.taste_pull) ** 20)  # of an AR(1) after ten steps
    assert moved == pytest.approx(0.0 if off else expected, rel=0.05, abs=1e-7)


def test_switch_rhythm() -> None:
    """Days and slots differ, and people keep to their hours; off, every day and slot is like any other."""
    one, off = world(), world(off="rhythm")
    off.state.habit[:] = 0.0
    by_slot, flat = [], []
    for slot in range(3):
        one.state.slot = off.state.slot = slot
        by_slot.append(chance(one))
        flat.append(chance(off))
    assert np.std([c.mean() for c in by_slot]) > 0.01
    np.testing.assert_array_equal(flat[0], flat[1])
    off.state.day, off.state.slot = 5, 0
    np.testing.assert_array_equal(flat[0], chance(off))
    assert one.listeners.slot_logit.shape == (200, CONTEXTS)


def test_switch_churn() -> None:
    """People leave, the dissatisfied first, and some return; who left does not come. Off, nobody leaves."""
    one = world(BASE.with_listeners(4_000))
    one.state.satisfaction[:2_000] = -0.5
    luck = np.random.default_rng(0)
    for _ in range(28):
        leave_and_return(one.state, one.settings.dynamics, luck.random((4_000, 2), dtype=np.float32))
    unhappy, neutral = one.state.gone[:2_000].mean(), one.state.gone[2_000:].mean()
    assert unhappy > 1.3 * neutral > 0.01
    assert (chance(one)[one.state.gone] == 0).all()
    left = one.state.gone.copy()
    for _ in range(100):
        leave_and_return(one.state, one.settings.dynamics, luck.random((4_000, 2), dtype=np.float32))
    assert 0.2 < 1 - one.state.gone[left].mean() < 0.7  # 1 - (1 - win_back)^100 is 45%, less those who left again
    off = world(off="churn")
    for _ in range(50):
        leave_and_return(off.state, off.settings.dynamics, luck.random((200, 2), dtype=np.float32))
    assert not off.state.gone.any()


@pytest.mark.parametrize("off", [None, "position_bias"])
def test_switch_position_bias(off: str | None) -> None:
    """Lower positions are examined less; off, the last is tapped as often as the first."""
    one = world(off=off)
    same = np.concatenate([played(one, slate_of(np.roll(np.arange(5), k)), k)[0].played[:, [0, 4]] for k in range(25)])
    first, last = same.mean(axis=0)
    assert first - last > 0.1 if off is None else abs(first - last) < 0.05


def test_switch_premium() -> None:
    """Free listeners pay with advertising, and subscribe when satisfied; off, there is nothing to buy."""
    one, slates = world(BASE.with_listeners(200)), slate_of(np.arange(5))
    one.state.premium[:] = False
    free = played(one, slates)[0]
    one.state.premium[:] = True
    assert played(one, slates)[0].enjoyment.mean() > free.enjoyment.mean()
    one.state.premium[:] = False
    one.state.satisfaction[:] = 2.0
    one.play(one.built_in("logging"), 20, np.random.default_rng(0))
    log = one.log().events
    assert one.state.premium.sum() == log.filter(log["action"] == "convert").height > 0
    off = world(off="premium")
    off.state.satisfaction[:] = 2.0
    off.play(off.built_in("logging"), 20, np.random.default_rng(0))
    assert not off.state.premium.any()


def test_switch_commute() -> None:
    """Spoken word fits the commute, builds its habit faster, and the habit carries the rest of the day."""
    settings = PRESETS["commuter"].with_listeners(200)
    one, off = world(settings), world(settings, off="commute")
    commuters = one.listeners.commuter
    spoken = slate_of(np.flatnonzero(one.items.spoken))
    for w, gains in ((one, True), (off, False)):
        morning = moment_of(EVERYBODY, w.state, w.listeners, w.items, w.settings).liking
        w.state.slot = 2
        evening = moment_of(EVERYBODY, w.state, w.listeners, w.items, w.settings).liking
        assert (morning[commuters, 1] > evening[commuters, 1]).all() == gains
        calm = chance(w)
        w.state.habit[:, COMMUTE] += 0.5
        assert (chance(w)[commuters] > calm[commuters]).all() == gains
        w.state.slot, w.state.habit[:] = 0, 0.0
        after(w, spoken, 0.5)
        grown = w.state.habit[:, COMMUTE]
        assert (grown[commuters].min() > grown[~commuters].max()) == gains


def test_switch_requests() -> None:
    """Some say what they want; off, nobody speaks."""
    for settings, speaks in ((BASE, True), (BASE.without("requests"), False)):
        one = world(settings)
        said = []
        while one.day < 4:
            _, contexts = one.observe()
            said += [text for text in contexts.steer if text is not None]
            one.act(*one.built_in("popularity").choose(contexts, np.random.default_rng(0)), "popularity@1")
        assert bool(said) == speaks


def test_switch_messages() -> None:
    """On, mornings have decision points of their own, and the log has messages; off, neither."""
    for settings, sends in ((PRESETS["messaging"], True), (PRESETS["messaging"].without("messages"), False)):
        one = world(settings.with_listeners(60))
        one.play(one.built_in("logging"), 5, np.random.default_rng(0))
        log = one.log()
        assert ("message" in log.items["kind"].to_list()) == sends
        assert ("m" in log.decisions["decision_id"].str.slice(0, 1).to_list()) == sends
