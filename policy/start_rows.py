"""Where the rows of new tokens start in a model's embedding tables: from what they mean, not at random.

A token started at random learns slowly: it is met a few hundred times in a short training, and has to find its place
first.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.catalog import Catalog, Floats
from policy.moves import MOVES
from policy.vocabulary import Vocabulary, token_meanings


def start_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: Vocabulary,
    catalog: Catalog,
    seed: int,
    pretrained: bool | None = None,
) -> None:
    """Give `model` a row for every token, and start the new ones from what they mean, in place.

    A code's row is its codebook vector, centred within its level and turned by one seeded orthogonal map into the
    model's width, so that codes of items alike start alike. In a pretrained model it is joined, half and half, by the
    mean row of the tags of the items that carry the code, and context and move tokens start at the mean row of a
    short description. All are scaled to the mean row norm of the table (input and, where untied, output separately).

    `pretrained` says whether the model's rows mean anything yet; by default, whether it was loaded from somewhere.
    """
    if pretrained is None:
        pretrained = bool(model.config.name_or_path)
    if cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings < len(tokenizer):
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tables = [cast(torch.nn.Embedding, model.get_input_embeddings()).weight]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not tables[0]:
        tables.append(head.weight)

    words = min(vocabulary.ids.values())  # rows before the first control token are those of text
    code_of = np.arange(vocabulary.first + len(MOVES), vocabulary.first + vocabulary.size)
    for table in tables:
        rows = table.detach().float().cpu().numpy().copy()
        norm = float(np.linalg.norm(rows[:words], axis=1).mean())
        started = _unit(_projected_codes(catalog, rows.shape[1], seed))
        if pretrained:
            for token, meaning in token_meanings().items():
                rows[vocabulary.ids[token]] = norm * _unit(_mean_row(rows, tokenizer, meaning))
            started = _unit(started + _unit(_tag_rows(rows, tokenizer, catalog)))
        rows[code_of] = norm * started
        with torch.no_grad():
            table.copy_(torch.as_tensor(rows, dtype=table.dtype))


def _unit(rows: Floats) -> Floats:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(length, 1e-12), dtype=np.float32)


def _projected_codes(catalog: Catalog, width: int, seed: int) -> Floats:
    """Codebook vectors of all levels in the model's width; codes that nothing uses get a random direction. (codes,
    width)
    """
    rng = np.random.default_rng(seed)
    dimensions = catalog.codebooks[0].shape[1]
    turn = np.linalg.qr(rng.normal(size=(max(dimensions, width),) * 2))[0][:dimensions, :width]
    levels = []
    for book in catalog.codebooks:
        used = np.linalg.norm(book, axis=1) > 1e-9
        centred = np.where(used[:, None], book - book[used].mean(0) if used.any() else book, 0.0) @ turn
        lonely = np.linalg.norm(centred, axis=1) < 1e-9
        centred[lonely] = rng.normal(size=(int(lonely.sum()), width))
        levels.append(centred)
    return np.asarray(np.concatenate(levels), dtype=np.float32)


def _mean_row(rows: Floats, tokenizer: PreTrainedTokenizerBase, text: str) -> Floats:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return np.asarray(rows[ids].mean(0), dtype=np.float32)


def _tag_rows(rows: Floats, tokenizer: PreTrainedTokenizerBase, catalog: Catalog) -> Floats:
    """For each code of each level, the mean row of its items' tags, or of their kind without tags. (codes, width)"""
    tags = [" ".join(row[0] or ()) or row[1] for row in catalog.items.select("tags", "kind").iter_rows()]
    texts, which = np.unique(np.asarray(tags, dtype=str), return_inverse=True)
    by_text = np.stack([_mean_row(rows, tokenizer, str(text)) for text in texts])
    levels = []
    for level, size in enumerate(catalog.level_sizes):
        code = catalog.codes[:, level]
        pairs, count = np.unique(code.astype(np.int64) * len(texts) + which, return_counts=True)
        total = np.zeros((size, rows.shape[1]), dtype=np.float32)
        np.add.at(total, pairs // len(texts), by_text[pairs % len(texts)] * count[:, None])
        unused = ~np.isin(np.arange(size), code)
        total[unused] = by_text.mean(0)
        levels.append(total)
    return np.concatenate(levels)
