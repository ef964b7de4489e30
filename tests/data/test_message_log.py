"""The message log: what a policy was shown in a world is what is read back from its tables, and labels are outcomes."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest

from data.errors import InputError
from data.logs import Logs
from data.message_log import MessageLog, message_log, take_contexts
from data.outcomes import outcomes
from data.world import World
from data.world.mailroom import signals
from tests.data.message_world import Watched, played

DAYS = 36


@pytest.fixture(scope="module")
def lived() -> tuple[World, Watched, Logs]:
    world, watched = played(listeners=60, days=DAYS)
    return world, watched, world.log()


def in_order(ids: Sequence[str]) -> np.ndarray:
    return np.arange(len(ids))


def read(logs: Logs, said: pl.DataFrame | None) -> MessageLog:
    assert logs.decisions is not None
    assert logs.end is not None
    return message_log(logs.events, logs.decisions, logs.users, logs.items, logs.end, in_order, said)


def test_contexts_and_decisions_are_those_that_the_policy_saw_and_took(lived: tuple[World, Watched, Logs]) -> None:
    world, watched, logs = lived
    assert world.mailroom is not None
    log = read(logs, signals(world.mailroom))
    place = {name: row for row, name in enumerate(log.decision_id)}
    assert world.mailroom is not None
    seen = 0
    for day, (shown, took, logp, mailing) in enumerate(
        zip(watched.contexts, watched.choices, watched.log_propensity, world.mailroom.mailings, strict=True)
    ):
        rows = np.array([place[f"m{day:04d}-u{listener:05d}"] for listener in mailing.listeners])
        seen += len(rows)
        ours = take_contexts(log.contexts, rows)
        for name in ("time", "hour_of_week", "consent", "premium", "item", "action", "sent_item"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(shown, name), err_msg=name)
        np.testing.assert_allclose(ours.gap_hours, shown.gap_hours, rtol=1e-5)
        sent = shown.sent_item >= 0
        for name in ("sent_channel", "sent_days_ago", "sent_answer"):
            np.testing.assert_array_equal(getattr(ours, name)[sent], getattr(shown, name)[sent], err_msg=name)
        for row in range(len(rows)):
            # The log lists opportunities without gaps.
            assert ours.eligible[row][ours.eligible[row] >= 0].tolist() == (
                shown.eligible[row][shown.eligible[row] >= 0].tolist()
            )
        there = ours.eligible >= 0
        np.testing.assert_allclose(ours.value[there], shown.value[shown.eligible >= 0], rtol=1e-5)
        held = log.column[rows] < 0
        np.testing.assert_array_equal(held, took.held)
        chosen = np.take_along_axis(ours.eligible, np.maximum(log.column[rows], 0)[:, None], axis=1)[:, 0]
        theirs = np.take_along_axis(shown.eligible, np.maximum(took.column, 0)[:, None], axis=1)[:, 0]
        np.testing.assert_array_equal(chosen[~held], theirs[~held])
        np.testing.assert_array_equal(log.channel[rows], took.channel)
        np.testing.assert_array_equal(log.hour[rows], took.hour)
        np.testing.assert_allclose(log.log_propensity[rows], np.minimum(logp, 0.0), atol=1e-9)
    assert seen == len(log)


def test_without_an_opportunities_table_value_signals_are_unknown(lived: tuple[World, Watched, Logs]) -> None:
    assert np.isnan(read(lived[2], None).contexts.value).all()


def test_labels_are_the_outcomes_of_the_log_and_unknown_until_their_window_closes(
    lived: tuple[World, Watched, Logs],
) -> None:
    logs = lived[2]
    log = read(logs, None)
    assert logs.end is not None
    table = outcomes(logs.events, logs.decisions, logs.users, logs.end, items=logs.items)
    table = pl.DataFrame({"decision_id": log.decision_id}).join(table, on="decision_id", how="left")
    closed = table["active_days_28"].is_not_null().to_numpy()
    assert 0.05 < closed.mean() < 0.5
    for name in ("active_days_28", "converted_28", "opted_out_28"):
        np.testing.assert_array_equal(~np.isnan(log.labels[name]), closed)
    today = (table["return_observed"] & (table["return_days"] == 0)).to_numpy()
    later = table["active_days_28"].fill_null(0).to_numpy()
    np.testing.assert_array_equal(log.labels["active_days_28"][closed], (later + today)[closed])
    np.testing.assert_array_equal(log.labels["converted_28"][closed], table["converted_28"].to_numpy()[closed])
    known = ~np.isnan(log.labels["active_today"])
    np.testing.assert_array_equal(log.labels["active_today"][known], today[known])
    assert (log.labels["sessions_1d"][known] >= today[known])[~np.isnan(log.labels["sessions_1d"][known])].all()


def test_what_is_known_at_an_earlier_moment_is_what_a_log_of_that_moment_says(
    lived: tuple[World, Watched, Logs],
) -> None:
    logs = lived[2]
    assert logs.end is not None
    assert logs.decisions is not None
    moment = logs.end - (logs.end - logs.events["time"].min()) / 4  # type: ignore[operator]
    early = message_log(logs.events, logs.decisions, logs.users, logs.items, moment, in_order)
    late = read(logs, None)
    place = {name: row for row, name in enumerate(late.decision_id)}
    rows = np.array([place[name] for name in early.decision_id])
    np.testing.assert_array_equal(early.contexts.sent_answer, late.contexts.sent_answer[rows])
    np.testing.assert_array_equal(early.past, late.past[rows])
    for name, values in early.labels.items():
        known = ~np.isnan(values)
        np.testing.assert_array_equal(values[known], late.labels[name][rows][known], err_msg=name)
        assert known.sum() < (~np.isnan(late.labels[name])).sum()


def test_a_log_without_messages_is_refused(lived: tuple[World, Watched, Logs]) -> None:
    logs = lived[2]
    assert logs.decisions is not None
    assert logs.end is not None
    slates = logs.decisions.filter(pl.col("surface") == "now_playing")
    with pytest.raises(InputError, match="no decisions about messages"):
        message_log(logs.events, slates, logs.users, logs.items, logs.end, in_order)
