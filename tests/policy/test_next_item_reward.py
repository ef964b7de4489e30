"""The next-item reward: the answer is worth most, its like something, and place counts."""

import numpy as np
import pytest
import torch

from policy.next_item_reward import NextItemReward


def test_the_answer_is_worth_one_its_like_less_and_its_opposite_nothing(make_catalog) -> None:
    catalog = make_catalog(4, dimensions=2)
    vectors = torch.tensor([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0], [0.0, 1.0]])
    reward = NextItemReward(torch.tensor([0, 3]), vectors)
    one = torch.arange(4)[:, None].expand(2, 4, 1)
    assert reward(torch.tensor([0, 1]), one).tolist() == [
        pytest.approx([1.0, 0.3, 0.0, 0.0]),
        pytest.approx([0.0, 0.4, 0.0, 1.0]),
    ]
    first, second = reward(torch.tensor([0]), torch.tensor([[[0, 2], [2, 0]]]))[0].tolist()
    assert first > second > 0
    assert first + second == pytest.approx(1.0)
    assert reward(torch.tensor([0]), torch.tensor([[[-1, 0]]])).item() == pytest.approx(second)  # an empty place
    known = NextItemReward.of(np.array([2], dtype=np.int32), catalog)
    assert known(torch.tensor([0]), torch.tensor([[[2]]])).item() == 1.0
