import numpy as np
import pytest

from data.errors import InputError
from scripts.early_reward import EarlyArguments, of_shows


def test_a_simulation_too_small_to_say_anything_is_refused() -> None:
    for few in ({"seeds": 1}, {"shows": 20}, {"listeners": 10}, {"bandit_shows": 500}):
        with pytest.raises(InputError, match="early reward"):
            of_shows(EarlyArguments(**few))


@pytest.mark.nightly
def test_the_published_table_and_bandit() -> None:
    found = of_shows(EarlyArguments(seeds=4))
    errors, regret = found["errors"]["progressive"], found["regret"]
    published = {(100, 5): 0.540, (100, 10): 0.470, (100, 60): 0.378, (1000, 5): 0.429, (1000, 10): 0.241}
    for (listeners, days), value in published.items():
        assert np.mean(errors[listeners][days]) == pytest.approx(value, abs=0.06)
    assert np.mean(errors[1000][0]) == pytest.approx(0.681, abs=0.08)
    oracle, early, late, proxy = (np.mean(regret[s]) for s in ("oracle", "progressive", "delayed", "day_two"))
    assert oracle < early < late < proxy
    assert early - oracle < 0.4 * (late - oracle)
