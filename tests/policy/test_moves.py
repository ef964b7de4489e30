import numpy as np
import polars as pl
import pytest

from data.catalog import Catalog
from data.errors import InputError
from data.schema import ACTIONS
from policy.moves import MOVES, move_of

PLAY, SKIP = ACTIONS.index("play"), ACTIONS.index("skip")

#        row  creator  style      kind
ITEMS = [
    ("ann", "folk", "track"),  # 0
    ("ann", "folk", "track"),  # 1
    ("bob", "folk", "track"),  # 2
    ("cat", "techno", "track"),  # 3
    ("dan", "news", "podcast"),  # 4
    (None, "folk", "track"),  # 5
    (None, None, "track"),  # 6
]


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    frame = pl.DataFrame(
        {
            "item_id": [f"i{row}" for row in range(len(ITEMS))],
            "kind": [kind for _, _, kind in ITEMS],
            "title": ["" for _ in ITEMS],
            "creator": [creator for creator, _, _ in ITEMS],
            "tags": [[style, "extra"] if style else None for _, style, _ in ITEMS],
        }
    )
    codes = np.arange(len(ITEMS), dtype=np.int32)[:, None]
    vectors = np.ones((len(ITEMS), 1), dtype=np.float32)
    return Catalog(frame, vectors, codes, (len(ITEMS),), (vectors,))


@pytest.mark.parametrize(
    ("history", "actions", "slate", "move"),
    [
        ([-1, 0], [-1, PLAY], [1], "continue"),
        ([-1, 0], [-1, PLAY], [2], "deepen"),
        ([-1, 0], [-1, PLAY], [3], "explore"),
        ([-1, 0], [-1, PLAY], [4], "switch"),
        ([-1, 0], [-1, PLAY], [3, 2, 2, 1, 3], "deepen"),  # two and two: the smaller departure
        ([-1, 0], [-1, PLAY], [3, 3, 3, 1, -1], "explore"),
        ([3, 0], [PLAY, SKIP], [1], "explore"),  # what was skipped is not what they were hearing
        ([0, 0], [SKIP, SKIP], [1], "explore"),
        ([-1, -1], [-1, -1], [4], "explore"),
        ([-1, 5], [-1, PLAY], [6], "explore"),  # two unknown creators are not the same one
        ([-1, 5], [-1, PLAY], [5], "continue"),  # the very same item is
        ([-1, 5], [-1, PLAY], [0], "deepen"),
        ([-1, 6], [-1, PLAY], [5], "explore"),
    ],
)
def test_the_move_is_how_far_the_slate_goes(catalog, history, actions, slate, move):
    found = move_of(np.array([history]), np.array([actions]), np.array([slate]), catalog)
    assert MOVES[found[0]] == move


def test_rows_do_not_depend_on_each_other(catalog):
    rng = np.random.default_rng(0)
    history = rng.integers(-1, 7, (50, 4))
    actions, slates = rng.integers(0, 3, (50, 4)), rng.integers(0, 7, (50, 3))
    together = move_of(history, actions, slates, catalog)
    alone = [move_of(history[[r]], actions[[r]], slates[[r]], catalog)[0] for r in range(50)]
    assert together.tolist() == alone
    assert len(set(alone)) > 1


def test_an_empty_slate_is_refused(catalog):
    with pytest.raises(InputError, match="slate 1 is empty"):
        move_of(np.array([[0], [0]]), np.array([[0], [0]]), np.array([[2], [-1]]), catalog)
