"""A run folder small enough to build in a second: 60 items, a random 2-layer Llama, two random LoRA adapters."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from data.artifacts import build as artifact
from data.catalog import Catalog
from data.ingest import StoreSettings, write_store
from data.logs import Logs
from data.schema import polars_schema
from policy.checkpoint import PolicySettings
from policy.vocabulary import Vocabulary, nano_tokenizer

ITEMS = 60
SLATE = 5
KINDS = ("track", "podcast", "audiobook")
CONSENTS = ([], ["push", "email", "in_app"], ["push"], ["email", "in_app"], ["push", "email"], ["push", "email"])


def tiny_catalog() -> Catalog:
    """60 items of three kinds whose codes use 3 levels of 6, 6 and 4, unevenly."""
    rng = np.random.default_rng(7)
    every = np.array([(a, b, c) for a in range(6) for b in range(6) for c in range(4)], dtype=np.int32)
    codes = every[np.sort(rng.choice(len(every), ITEMS, replace=False))]
    items = pl.DataFrame(
        {
            "item_id": [f"item-{row:02d}" for row in range(ITEMS)],
            "kind": [KINDS[row % 3] for row in range(ITEMS)],
            "title": [f"Quiet morning number {row}" for row in range(ITEMS)],
            "creator": [f"Artist {row % 9}" for row in range(ITEMS)],
            "tags": [["calm", f"style-{row % 5}"] for row in range(ITEMS)],
        }
    )
    items = pl.concat([pl.DataFrame(schema=polars_schema("items")), items], how="diagonal")
    embeddings = rng.normal(size=(ITEMS, 8)).astype(np.float32)
    books = tuple(rng.normal(size=(size, 8)).astype(np.float32) for size in (6, 6, 4))
    return Catalog(items, embeddings, codes, (6, 6, 4), books)


def message_items() -> pl.DataFrame:
    """A concert, an offer, a trip back, and to hold."""
    said = {
        "item_id": ["m-concert-jazz", "m-offer", "m-win_back", "hold"],
        "kind": ["message"] * 4,
        "title": ["Trio plays near you", "Three months for one", "We kept your music", "Send nothing"],
        "tags": [["concert", "jazz"], ["offer"], ["win_back"], ["hold"]],
    }
    return pl.concat([pl.DataFrame(schema=polars_schema("items")), pl.DataFrame(said)], how="diagonal")


def tiny_log(catalog: Catalog, decisions: bool = False) -> Logs:
    """Six listeners, u0 to u5, each with u-number + 1 sessions of two items on consecutive days; u1 lives in Tokyo.

    They agreed to be reached as CONSENTS says. decisions: with one logged decision for each session, a second before.
    """
    start = datetime(2026, 1, 5, 8, tzinfo=UTC)
    events = [
        {
            "user_id": f"u{user}",
            "time": start + timedelta(days=day, minutes=4 * place),
            "surface": "home",
            "action": ("complete", "skip")[place],
            "item_id": f"item-{(user * 7 + day * 2 + place) % ITEMS:02d}",
            "seconds": 90.0,
        }
        for user in range(6)
        for day in range(user + 1)
        for place in range(2)
    ]
    users = pl.DataFrame(
        {
            "user_id": [f"u{user}" for user in range(6)],
            "time_zone": ["UTC", "Asia/Tokyo", *["UTC"] * 4],
            "consents": list(CONSENTS),
        },
        schema_overrides={"consents": pl.List(pl.String)},
    )
    made = None
    if decisions:
        shown = [event for event in events if event["action"] == "complete"]
        made = pl.DataFrame(
            [
                {
                    "decision_id": f"logged-{number}",
                    "user_id": event["user_id"],
                    "time": event["time"] - timedelta(seconds=1),
                    "surface": "home",
                    "policy": "logging@1",
                    "slate": [event["item_id"], f"item-{(number * 11 + 1) % ITEMS:02d}"],
                    "propensity": 0.001,
                }
                for number, event in enumerate(shown)
            ]
        )
    return Logs(
        items=pl.concat([catalog.items, message_items()]), events=pl.DataFrame(events), decisions=made, users=users
    )


def build(run: Path, decisions: bool = False, adapters: tuple[str, ...] = ("dpo", "ppo")) -> Catalog:
    """Write runs/X/{logs,catalog,policy/sft,policy/<adapter>} with random weights; decisions as in `tiny_log`."""
    catalog = tiny_catalog()
    catalog.save(run / "catalog")
    logs, settings = tiny_log(catalog, decisions), StoreSettings(buckets=4)
    artifact(run / "logs", config={}, inputs=[], seed=0, make=lambda place: write_store(logs, place, settings))
    tokenizer = nano_tokenizer(catalog, ["something calmer, maybe a podcast"], 400)
    base = run / "policy" / "sft"
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.3,  # wide enough that the policy has strong opinions: parity is tested on them
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    Vocabulary.of(tokenizer, catalog).save(base)
    policy = PolicySettings(preset="nano", catalog=catalog.version, slate_size=SLATE, history_length=12)
    (base / "policy.json").write_text(json.dumps(asdict(policy)))
    for seed, name in enumerate(adapters):
        torch.manual_seed(10 + seed)
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        lora = LoraConfig(r=8, lora_alpha=16, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
        adapted = get_peft_model(LlamaForCausalLM.from_pretrained(base), lora)
        adapted.save_pretrained(run / "policy" / name)
    return catalog
