"""What is expected of a slate is the same whether the log is read whole, in training, or one listener alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.histories import contexts
from policy.serving.forecast import Forecast
from policy.serving.listeners import Past
from rewards.training import TrainSettings
from tests.rewards.made_up_log import SMALL, Trained, make_log, train


@pytest.fixture(scope="module")
def trained() -> Trained:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = train(make_log(users=80, days=30, size=0.3, seed=4), replace(SMALL, train=TrainSettings(epochs=1)))
    torch.set_num_threads(before)
    return found


def asked(trained: Trained, row: int, slate: list[int]) -> dict[str, float] | None:
    log = trained.log
    of = slice(int(log.histories.offsets[log.decisions.user[row]]), int(log.decisions.start[row]))
    time = log.histories.time[of]
    past = Past(
        time,
        time,
        [str(item) for item in log.histories.item[of]],
        log.histories.action[of].astype(np.int64),
        log.histories.surface[of].astype(np.int64),
        "UTC",
    )
    row_of = {str(item): item for item in range(len(log.catalog))}
    forecast = Forecast(trained.model, trained.model.objective(), len(log.catalog))
    return forecast.of(past, row_of, contexts(log.histories, log.decisions.take(np.array([row]))), slate)


def test_serving_expects_of_a_slate_what_training_does(trained: Trained) -> None:
    log, model = trained.log, trained.model
    late = np.flatnonzero(log.decisions.time > np.quantile(log.decisions.time, 0.8))[:25]
    outcomes = model.outcomes(trained.states[late])
    for place, row in enumerate(late.tolist()):
        slate = log.decisions.slate[row]
        found = asked(trained, row, slate.tolist())
        assert found is not None
        scores = model.advantage(trained.states[row : row + 1], torch.from_numpy(slate.astype(np.int64))[None, None])
        assert found["reward"] == pytest.approx(float(model.objective().lower_bound(scores)), abs=1e-3)
        anyway = found["returned_7d"] - found["returned_7d_lift"]
        if 0.0 < found["returned_7d"] < 1.0:
            assert anyway == pytest.approx(float(outcomes["returned_7d"][place]), abs=1e-3)


def test_nothing_is_said_of_slates_that_are_longer_or_of_items_that_are_newer(trained: Trained) -> None:
    row = int(np.argmax(trained.log.decisions.time))
    assert asked(trained, row, [0, 1]) is not None
    assert asked(trained, row, [0, 1, 2, 3]) is None
    assert asked(trained, row, [0, len(trained.log.catalog)]) is None
