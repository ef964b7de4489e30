"""What locust's listeners do: ask for a slate, note what came back, and stop when enough were answered.

LONGPLAY_ANSWERS: file of what came back. LONGPLAY_REQUESTS: answered recommendations to stop at. LONGPLAY_ITEMS: item
ids to block some of, with commas. LONGPLAY_PACE: seconds from a listener's one request to the next, at the least.
LONGPLAY_PATIENT: 1 to wait as long as a refusal says.
"""

from __future__ import annotations

import json
import os
import random
import time
from typing import Any

from locust import FastHttpUser, constant_pacing

REQUESTS = int(os.environ["LONGPLAY_REQUESTS"])
ITEMS = os.environ["LONGPLAY_ITEMS"].split(",")
PATIENT = os.environ["LONGPLAY_PATIENT"] == "1"
STEERS = (None, "something calmer, maybe a podcast", "surprise me", "more like this")
_out = open(os.environ["LONGPLAY_ANSWERS"], "a", buffering=1)  # noqa: SIM115 - as long as the process
_answered = 0


def recommend(listener: FastHttpUser) -> None:
    """Ask for one slate and write down what came back."""
    global _answered
    if _answered >= REQUESTS:
        listener.environment.runner.quit()
        return
    blocked = random.sample(ITEMS, random.randrange(4))
    asked: dict[str, Any] = {
        "user_id": f"u{random.randrange(5000):05d}",
        "k": random.randint(1, 8),
        "blocked": blocked,
    }
    if (steer := random.choice(STEERS)) is not None:
        asked["steer"] = steer
    began = time.perf_counter()
    with listener.client.post("/v1/recommendations", json=asked, catch_response=True) as answer:
        status, said = answer.status_code, answer.text
        answer.success()
    took = time.perf_counter() - began
    line: dict[str, Any] = {"status": status, "seconds": took, "at": time.time(), "blocked": blocked}
    if status == 200:
        made = json.loads(said)
        _answered += 1
        line |= {name: made[name] for name in ("decision_id", "policy", "fallback")}
        line["slate"] = [item["item_id"] for item in made["items"]]
    _out.write(json.dumps(line) + "\n")
    if PATIENT and status == 429:
        time.sleep(float(answer.headers["retry-after"]))
    elif PATIENT and status != 200:
        time.sleep(0.5)


class Listener(FastHttpUser):
    """One of many."""

    wait_time = constant_pacing(float(os.environ["LONGPLAY_PACE"]))
    tasks = [recommend]  # noqa: RUF012 - as locust has it
    network_timeout = 30.0
