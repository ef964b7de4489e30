import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InputError
from policy.trie import Trie


def build(codes: np.ndarray, sizes: tuple[int, ...]) -> Trie:
    offsets = [4 + sum(sizes[:level]) for level in range(len(sizes))]
    return Trie.build(torch.as_tensor(codes), offsets, sizes)


@st.composite
def code_tables(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    sizes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    capacity = int(np.prod(sizes))
    paths = draw(st.lists(st.integers(0, capacity - 1), min_size=1, max_size=min(capacity, 40), unique=True))
    return np.stack(np.unravel_index(paths, sizes), axis=1), sizes


def legal_by_hand(codes, sizes, prefix, eligible, taken):
    """Codes of the next level under `prefix` that still lead to an eligible item outside `taken`."""
    return {
        int(code[len(prefix)])
        for item, code in enumerate(codes)
        if tuple(code[: len(prefix)]) == tuple(prefix) and eligible[item] and item not in taken
    }


@settings(max_examples=150, deadline=None)
@given(code_tables(), st.data())
def test_masks_equal_brute_force(table, data):
    codes, sizes = table
    trie = build(codes, sizes)
    items = len(codes)
    level = data.draw(st.integers(0, len(sizes) - 1))
    rows = data.draw(st.lists(st.integers(0, items - 1), min_size=1, max_size=5))
    taken = data.draw(
        st.lists(st.lists(st.integers(-1, items - 1), min_size=3, max_size=3), min_size=len(rows), max_size=len(rows))
    )
    by_row = data.draw(st.booleans())
    flags = st.lists(st.booleans(), min_size=items, max_size=items)
    eligible = np.array([data.draw(flags) for _ in rows]) if by_row else np.array(data.draw(flags))
    node = torch.zeros(len(rows), dtype=torch.long)
    for step in range(level):
        node = trie.step(step, node, torch.as_tensor(codes[rows, step]))
    leaf = torch.cat([torch.argsort(trie.leaf_item), torch.tensor([items])])[torch.as_tensor(taken)]  # -1: none
    mask = trie.legal(level, node, trie.count(torch.as_tensor(eligible)), leaf)
    for number, row in enumerate(rows):
        flags_of_row = eligible[number] if by_row else eligible
        expected = legal_by_hand(codes, sizes, codes[row, :level], flags_of_row, taken[number])
        found = {int(token) - trie.level_offsets[level] for token in mask[number].nonzero().squeeze(1)}
        assert found == expected


@settings(max_examples=50, deadline=None)
@given(code_tables())
def test_every_item_is_reached_by_its_codes_and_nothing_else_is(table):
    codes, sizes = table
    trie = build(codes, sizes)
    everything = np.stack(np.unravel_index(np.arange(int(np.prod(sizes))), sizes), axis=1)
    node = torch.zeros(len(everything), dtype=torch.long)
    by_edge = node
    for level in range(len(sizes)):
        codes_here = torch.as_tensor(everything[:, level])
        node = trie.step(level, node, codes_here)
        by_edge = trie.follow(by_edge, codes_here + trie.level_offsets[level])
    first_leaf = sum(trie.nodes_at[:-1])
    assert torch.equal(by_edge, torch.where(node < len(codes), node + first_leaf, -1))
    rows = {tuple(code): row for row, code in enumerate(codes)}
    for path, leaf in zip(everything, node.tolist()):
        if tuple(path) in rows:
            assert int(trie.leaf_item[leaf]) == rows[tuple(path)]
        else:
            assert leaf == len(codes)


def test_permuting_the_catalog_permutes_the_leaves():
    rng = np.random.default_rng(1)
    codes = np.stack(np.unravel_index(rng.choice(64, 40, replace=False), (4, 4, 4)), axis=1)
    order = rng.permutation(40)
    plain, permuted = build(codes, (4, 4, 4)), build(codes[order], (4, 4, 4))
    assert torch.equal(plain.leaf_item, torch.as_tensor(order)[permuted.leaf_item])
    assert torch.equal(plain.child_token, permuted.child_token)


@settings(max_examples=50, deadline=None)
@given(code_tables())
def test_the_flat_rows_and_the_csr_table_are_one_tree(table):
    codes, sizes = table
    trie = build(codes, sizes)
    first = 0
    for level in range(len(sizes)):
        below = first + trie.nodes_at[level]
        for node in range(trie.nodes_at[level]):
            edges = slice(int(trie.child_start[first + node]), int(trie.child_start[first + node + 1]))
            children = trie.window[level][node]
            known = (children < trie.nodes_at[level + 1]).nonzero().squeeze(1)
            assert (known + trie.level_offsets[level]).tolist() == trie.child_token[edges].tolist()
            assert (children[known] + below).tolist() == trie.child_node[edges].tolist()
            spans = [(int(trie.node_lo[child]), int(trie.node_hi[child])) for child in trie.child_node[edges]]
            assert spans[0][0] == int(trie.node_lo[first + node])
            assert spans[-1][1] == int(trie.node_hi[first + node])
            assert all(left[1] == right[0] for left, right in itertools.pairwise(spans))
        first = below


def test_a_token_outside_the_block_leads_nowhere():
    trie = build(np.array([[0, 0], [1, 1]]), (2, 2))
    node = torch.tensor([0, 0, 0])
    assert trie.follow(node, torch.tensor([trie.width, trie.width * 2 + 4, -3])).tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("codes", "words"),
    [([[0, 1], [0, 1]], "share"), ([[0, 2]], "outside"), (np.zeros((0, 2), dtype=int), "no items")],
)
def test_a_faulty_code_table_is_refused(codes, words):
    with pytest.raises(InputError, match=words):
        build(np.asarray(codes), (2, 2))


def test_eligibility_of_another_catalog_is_refused():
    with pytest.raises(InputError, match="3 items"):
        build(np.array([[0], [1], [2]]), (3,)).count(torch.ones(4, dtype=torch.bool))
