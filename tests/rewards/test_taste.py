from dataclasses import replace

import numpy as np

from data.histories import Decisions, Histories
from data.schema import ACTION_CODE
from rewards.taste import fit_tastes, liking, tastes

USERS, PLAYS, ITEMS, P = 200, 60, 80, 3
DAY = 86_400_000_000


def _log(seed: int, strength: float) -> tuple[Histories, np.ndarray, np.ndarray]:
    """Listeners (U, P) with tastes of this strength, who complete or skip random items of content (N, P)."""
    rng = np.random.default_rng(seed)
    content = rng.standard_normal((ITEMS, P)).astype(np.float32)
    taste = strength * rng.standard_normal((USERS, P))
    item = rng.integers(0, ITEMS, (USERS, PLAYS))
    logit = np.einsum("up,ukp->uk", taste, content[item])
    completed = rng.random(item.shape) < 1 / (1 + np.exp(-logit))
    time = np.sort(rng.integers(0, 60 * DAY, item.shape), axis=1)
    rows = USERS * PLAYS
    history = Histories(
        user_ids=[f"u{u}" for u in range(USERS)],
        offsets=np.arange(USERS + 1, dtype=np.int64) * PLAYS,
        item=item.ravel().astype(np.int32),
        action=np.where(completed.ravel(), ACTION_CODE["complete"], ACTION_CODE["skip"]).astype(np.int8),
        time=time.ravel().astype(np.int64),
        surface=np.zeros(rows, np.int8),
        hour_of_week=np.zeros(rows, np.int16),
    )
    return history, content, taste


def _at(history: Histories, known: np.ndarray) -> Decisions:
    start = history.offsets[:-1] + known
    return Decisions(
        decision_id=[f"d{u}" for u in range(USERS)],
        user=np.arange(USERS, dtype=np.int32),
        start=start,
        time=np.where(known > 0, history.time[np.maximum(start - 1, 0)] + DAY, DAY),
        hour_of_week=np.zeros(USERS, np.int16),
        surface=np.zeros(USERS, np.int8),
        slate=np.zeros((USERS, 1), np.int32),
        log_propensity=np.full(USERS, np.nan),
        steer=[None] * USERS,
        reaction=np.full((USERS, 1), -1, np.int8),
        seconds=np.zeros((USERS, 1), np.float32),
    )


def test_a_taste_is_found_and_the_more_surely_the_more_was_played() -> None:
    history, content, taste = _log(0, 1.0)
    model = fit_tastes(history, content, np.arange(len(history.item)))
    truth = taste @ content.T
    found = []
    for known in (5, 60):
        ours = tastes(history, _at(history, np.full(USERS, known)), content, model)[:, 1 : 1 + P] @ content.T
        found.append(float(np.corrcoef(ours.ravel(), truth.ravel())[0, 1]))
    assert found[1] > 0.85
    assert 0.3 < found[0] < found[1] - 0.2


def test_where_nobody_has_a_taste_none_is_found() -> None:
    histories = [_log(1, strength)[0] for strength in (0.0, 1.0)]
    content = _log(1, 0.0)[1]
    wide, narrow = (fit_tastes(h, content, np.arange(len(h.item))).precision[1:].mean() for h in histories)
    assert wide > 5 * narrow, "the prior of the tasteless is tight"


def test_ridge_is_the_closed_form_and_reads_only_what_is_known() -> None:
    history, content, _ = _log(2, 1.0)
    model = fit_tastes(history, content, np.arange(len(history.item)))
    known = np.arange(USERS) % 20
    ours = tastes(history, _at(history, known), content, model)
    assert (ours[known == 0] == 0).all()
    user = 7
    rows = np.arange(history.offsets[user], history.offsets[user] + known[user])
    design = np.concatenate([np.ones((len(rows), 1)), content[history.item[rows]]], axis=1).astype(np.float64)
    away = liking(history.action[rows]) - model.expected[history.item[rows]]
    expected = np.linalg.solve(design.T @ design + np.diag(model.precision), design.T @ away)
    expected[1:] *= model.scale[0]
    np.testing.assert_allclose(ours[user, : 1 + P], expected, rtol=1e-4, atol=1e-6)


def test_nothing_but_the_plays_that_teach_moves_what_is_learned() -> None:
    history, content, _ = _log(3, 1.0)
    cut = int(np.median(history.time))
    ours = np.repeat(np.arange(USERS) % 2 == 0, PLAYS)
    rows = np.flatnonzero(ours & (history.time < cut))
    rng = np.random.default_rng(0)
    other = np.ones(len(history.item), bool)
    other[rows] = False
    changed = replace(
        history,
        item=np.where(other, rng.integers(0, ITEMS // 4, len(other)), history.item).astype(np.int32),
        action=np.where(other, ACTION_CODE["complete"], history.action).astype(np.int8),
        time=np.where(other, history.time + 100 * DAY, history.time),
    )
    before, after = (fit_tastes(h, content, rows) for h in (history, changed))
    for name in ("expected", "usual", "precision", "scale"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), err_msg=name)
    assert (before.scale != 1.0).all()
