"""The probability of a served slate, worked out again without the server: transformers and the prompt of training."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from data.catalog import Catalog
from data.store import LogStore
from policy.grammar import SlateGrammar
from policy.hearing import Hearing
from policy.moves import MOVES
from policy.prompt import Prompt
from policy.serving.listeners import Listener, Listeners
from policy.serving.state import SqliteState
from policy.vocabulary import Vocabulary


class Rescorer:
    """Log-probability of a response's (move, slate) given its request, one token at a time, in float32."""

    tensor = staticmethod(torch.tensor)

    def __init__(self, run: Path) -> None:
        self.run = run
        self.catalog = Catalog.load(run / "catalog")
        self.item_ids = self.catalog.items["item_id"].to_list()
        self.row_of = {item: row for row, item in enumerate(self.item_ids)}
        self.tokenizer = AutoTokenizer.from_pretrained(run / "policy" / "sft")
        self.vocabulary = Vocabulary.load(run / "policy" / "sft", self.catalog)
        self.store = LogStore(run / "logs")
        self.prompt = Prompt(self.vocabulary, self.tokenizer, 12)

    @lru_cache(maxsize=4)  # noqa: B019 - lives as long as the test session
    def model(self, name: str) -> torch.nn.Module:
        base = AutoModelForCausalLM.from_pretrained(self.run / "policy" / "sft", dtype=torch.float32)
        model = base if name == "sft" else PeftModel.from_pretrained(base, str(self.run / "policy" / name))
        return model.eval()

    def grammar(self, slate_size: int) -> SlateGrammar:
        return SlateGrammar.of(self.vocabulary, slate_size)

    async def _look(self, user_id: str, feedback: Sequence[Mapping[str, Any]]) -> Listener:
        state = SqliteState(self.run / f"rescoring-{uuid.uuid4().hex}.sqlite")
        await state.add(feedback)
        return await Listeners(self.store, state).look(user_id)

    @torch.no_grad()
    def __call__(
        self, request: Mapping[str, Any], answer: Mapping[str, Any], feedback: Sequence[Mapping[str, Any]] = ()
    ) -> float:
        when = datetime.fromisoformat(request["context"]["time"])
        surface = request.get("surface", "now_playing")
        listener = asyncio.run(self._look(request["user_id"], feedback))
        context = listener.context(self.row_of, 12, surface, when, request.get("steer"))
        ids, _ = self.prompt.encode(context, request.get("weights"))
        rows = [self.row_of[item["item_id"]] for item in answer["items"]]
        grammar = self.grammar(len(rows))
        completion = grammar.encode(torch.tensor([MOVES.index(answer["move"])]), torch.tensor([rows]))
        logits = self.model(request["policy"])(torch.cat([ids, completion], 1)).logits[0].double()
        eligible = torch.tensor(
            [
                row["kind"] in request.get("kinds", [row["kind"]]) and row["item_id"] not in request.get("blocked", ())
                for row in self.catalog.items.to_dicts()
            ]
        )
        steer = (request.get("steer") or "").strip()
        heard = Hearing(self.catalog).prior(grammar.trie, [steer or None], eligible)
        total = 0.0
        for step in range(grammar.length):
            legal = grammar.legal(completion[:, :step], eligible)[0]
            scores = logits[ids.shape[1] - 1 + step, grammar.vocabulary.first :][: len(legal)].clone()
            if heard is not None and step:
                level, begun = (step - 1) % grammar.trie.levels, completion[0, 1 : step + 1]
                node = torch.zeros(1, dtype=torch.long)
                for place in range(level):
                    code = int(begun[step - 1 - level + place]) - grammar.vocabulary.first
                    node = grammar.trie.step(place, node, torch.tensor([code - grammar.trie.level_offsets[place]]))
                offset = grammar.trie.level_offsets[level]
                scores[offset : offset + grammar.trie.level_sizes[level]] += heard.at(level, node)[0]
            scores = scores.masked_fill(~legal, -torch.inf).log_softmax(0)
            total += float(scores[completion[0, step] - grammar.vocabulary.first])
        return total
