"""What locust's listeners do: ask for a slate, note what came back, and stop when enough were answered."""

from __future__ import annotations

import json
import os
import random
import time
from typing import Any

from locust import HttpUser, constant

ANSWERS = os.environ["LONGPLAY_ANSWERS"]
REQUESTS = int(os.environ["LONGPLAY_REQUESTS"])
STEERS = (None, "something calmer, maybe a podcast", "surprise me", "more like this")
_out = open(ANSWERS, "a", buffering=1)  # noqa: SIM115 - as long as the process
_answered = 0


def recommend(listener: HttpUser) -> None:
    """Ask for one slate and write down what came back."""
    global _answered
    if _answered >= REQUESTS:
        listener.environment.runner.quit()
        return
    blocked = [f"i{random.randrange(600):04d}" for _ in range(random.randrange(4))]
    asked: dict[str, Any] = {
        "user_id": f"u{random.randrange(5000):05d}",
        "k": random.randint(1, 8),
        "blocked": blocked,
    }
    if (steer := random.choice(STEERS)) is not None:
        asked["steer"] = steer
    began = time.perf_counter()
    with listener.client.post("/v1/recommendations", json=asked, catch_response=True) as answer:
        status = answer.status_code
        answer.success()
    line: dict[str, Any] = {"status": status, "seconds": time.perf_counter() - began, "blocked": blocked}
    if status == 200:
        said = answer.json()
        _answered += 1
        line |= {name: said[name] for name in ("decision_id", "policy")}
        line["slate"] = [item["item_id"] for item in said["items"]]
    _out.write(json.dumps(line) + "\n")
    if status == 429:
        time.sleep(float(answer.headers["retry-after"]))
    elif status != 200:
        time.sleep(0.5)


class Listener(HttpUser):
    """One of many, without a pause."""

    wait_time = constant(0)
    tasks = [recommend]  # noqa: RUF012 - as locust has it
