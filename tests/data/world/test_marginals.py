"""What the service looks like from outside, and whether the effect that we seek can be seen in its log."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import cross_val_predict, cross_val_score

from data.world import PRESETS, World
from data.world.listeners import FIRST_HOUR, LAST_HOUR


@pytest.fixture(scope="module")
def world() -> World:
    """5,000 listeners x 84 days, the log of a demo."""
    world = World(PRESETS["clickbait"].with_listeners(5_000), seed=0)
    world.play(world.built_in("logging"), 84, np.random.default_rng(0))
    return world


def came(world: World) -> np.ndarray:
    visits = np.zeros((len(world.listeners), world.day), bool)
    for day in world.days:
        visits[day.listeners, day.day] = True
    return visits


def test_listening(world: World) -> None:
    played = np.concatenate([day.session.played for day in world.days])
    completed = np.concatenate([day.session.completed for day in world.days])
    saved = np.concatenate([day.session.saved for day in world.days])
    disliked = np.concatenate([day.session.disliked for day in world.days])
    skip_rate = 1 - completed.sum() / played.sum()
    assert 0.25 < skip_rate < 0.50
    assert 0.02 < saved.sum() / played.sum() < 0.15
    assert 0.005 < disliked.sum() / played.sum() < 0.08
    assert 1.5 < played.sum(axis=1).mean() < 3.0
    by_position = played.mean(axis=0)
    assert (np.diff(by_position) < 0).all()  # position bias


def test_coming(world: World) -> None:
    visits = came(world)
    last = visits[:, -28:].sum(axis=1)
    assert 9 < last.mean() < 11.5
    assert last.std() > 5  # people differ
    assert 0.003 < (last == 0).mean() < 0.10  # gone in the last four weeks
    weekday, weekend = visits.reshape(len(visits), -1, 7).mean(axis=(0, 1))[[1, 5]]
    assert weekend < weekday
    drift = visits[:, 28:56].mean() / visits[:, 56:].mean()
    assert 0.9 < drift < 1.1  # the service neither dies nor explodes


def test_hours_have_a_rhythm(world: World) -> None:
    hours = np.concatenate([day.time for day in world.days])
    utc = [np.flatnonzero(world.listeners.zone[day.listeners] == 0) for day in world.days]
    local = np.concatenate([day.time[rows] for day, rows in zip(world.days, utc, strict=True)]) // 3_600_000_000 % 24
    share = np.bincount(local, minlength=24) / len(local)
    assert share[:FIRST_HOUR].sum() == 0
    assert share[LAST_HOUR + 1 :].sum() == 0
    assert share.max() < 0.2
    assert share[18] > 1.5 * share[14]
    assert len(np.unique(hours)) > 0.999 * len(hours)


def test_habit_and_return_hang_together(world: World) -> None:
    visits = came(world)
    habit = world.state.habit
    assert (habit >= 0).all()
    assert (habit <= 1).all()
    assert np.corrcoef(habit, visits[:, -14:].sum(axis=1))[0, 1] > 0.5


def test_item_effects_can_be_seen_in_the_log(world: World) -> None:
    visits = np.concatenate([came(world), np.zeros((len(world.listeners), 8), bool)], axis=1)
    total = np.concatenate([np.zeros((len(visits), 1)), np.cumsum(visits, axis=1)], axis=1)
    days = [day for day in world.days if day.day < world.day - 7]
    who = np.concatenate([day.listeners for day in days])
    when = np.repeat([day.day for day in days], [len(day.listeners) for day in days])
    slates = np.concatenate([day.slates for day in days])
    played = np.concatenate([day.session.played for day in days])
    completed = np.concatenate([day.session.completed for day in days])
    later = total[who, when + 8] - total[who, when + 1]
    later -= (np.bincount(who, later) / np.maximum(np.bincount(who), 1))[who]

    def per_item(value: np.ndarray) -> np.ndarray:
        return np.bincount(slates.ravel(), value.ravel(), minlength=len(world.items))

    shown = per_item(np.ones_like(slates))
    quality = world.items.quality

    def agreement(effect: np.ndarray) -> float:
        return float(np.corrcoef(effect, quality)[0, 1])

    assert agreement(per_item(np.repeat(later[:, None], 5, axis=1)) / shown) > 0.35
    assert agreement(per_item(completed) / np.maximum(per_item(played), 1)) > 0.75
    assert agreement(per_item(played) / shown) < -0.25


def test_words_tell_the_style_and_not_the_quality(world: World) -> None:
    items = world.items_frame()
    texts = [
        " ".join([row["title"], *row["tags"], row["text"]])
        for row in items.select("title", "tags", "text").iter_rows(named=True)
    ]
    words = TfidfVectorizer().fit_transform(texts)
    style = cross_val_score(LogisticRegression(C=30.0, max_iter=500), words, world.items.style, cv=3)
    assert style.mean() > 0.9
    for hidden in (world.items.quality, world.items.allure):
        guess = cross_val_predict(RidgeCV(alphas=(1.0, 10.0, 100.0)), words, hidden, cv=5)
        assert 1 - ((hidden - guess) ** 2).sum() / ((hidden - hidden.mean()) ** 2).sum() < 0.04


def test_allure_pulls_against_quality() -> None:
    correlation = [
        np.corrcoef(world.items.allure, world.items.quality)[0, 1]
        for world in (World(PRESETS["clickbait"].with_listeners(1), seed) for seed in range(4))
    ]
    assert -0.55 < np.mean(correlation) < -0.3
