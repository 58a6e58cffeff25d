"""What does a kill cost? The first step after it, and goodput under a kill every minute.

    python -m benchmarks.resume

A run of ResNet-50 (full training, 8 images of 128 px, AdamW, a save every 20 steps) is killed
with SIGKILL again and again and begins anew each time, and so is a bare script of Flax and Orbax
(`benchmarks/peers/bare_run.py`), in turn. Seconds count from a process's start to the
end of its first step. Goodput is the time that the steps took that count in the end, each at the
median of a step, as a share of the whole time; a step counts if the start after the last kill goes
on behind it. What a kill costs is the rest by the number of kills, from which goodput under rarer
kills follows by calculation.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.startup import assignments, weight_file

LIVES, LIFE = 3, 60.0  # processes that are killed, and the seconds after which each is
EVERY = 20  # steps between two saves
CALCULATED = (5, 10, 60)  # minutes between two kills
PROJECT = Path(__file__).parent.parent
Command = Callable[[bool], list[str]]


def main() -> None:
    """Kills both sides in turn, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    smoke = arguments.smoke
    model = "resnet_mini" if smoke else "resnet50"
    lives, life, every = (1, 0.5, 2) if smoke else (LIVES, LIFE, EVERY)
    rows = []
    print(f"{'':24} {'cold s':>7} {'again s':>8} {'step ms':>8} {'counted':>8} {'goodput':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        for name, command in sides(Path(scratch), model, every, smoke=smoke):
            row = {"side": name, **_measure(command, lives, life)}
            rows.append(row)
            print(
                f"{name:24} {row['cold_seconds']:7.1f} {row['again']['median']:8.1f} "
                f"{1000 * row['step']['median']:8.0f} {row['counted']:8} {row['goodput']:8.3f}"
            )
    for row in rows:
        calculated = row["goodput_by_minutes"].items()
        text = ", ".join(
            f"{share:.3f} at one every {minutes} minutes" for minutes, share in calculated
        )
        print(f"{row['side']}: a kill costs {row['lost_a_kill']:.1f} s; {text}")
    extra = {"life_seconds": life, "lives": lives, "save_every": every, "network": model}
    print(record.write(arguments.results, "resume", rows, **extra))


def sides(scratch: Path, model: str, every: int, *, smoke: bool) -> list[tuple[str, Command]]:
    """The commands of jtl and, in full, of the bare script; they are told whether to go on."""
    weights = weight_file(scratch, model)
    options = (f"train.checkpoint.every={every}", "train.monitor=null")
    trained = "backbone" if smoke else "none"
    run = [*assignments(weights, model, trained, steps=100_000), *options]
    module = [sys.executable, "-m", "benchmarks.contest.first_step", "digits", *run]
    cache, saved = scratch / "cache", scratch / "run"
    own = [*module, "--go-on", f"--workdir={saved}"]
    os.environ["JTL_CACHE"] = str(cache)
    bare = [sys.executable, "-m", "benchmarks.peers.bare_run", model]
    bare += [str(scratch / "bare"), str(scratch / "bare-cache"), str(every)]
    both: list[tuple[str, Command]] = [
        ("jtl", lambda again: [*own, *(["--resume"] if again else [])]),
        ("bare Flax and Orbax", lambda _: bare),
    ]
    return both[:1] if smoke else both


def _measure(command: Command, lives: int, life: float) -> dict[str, Any]:
    """Lets a side live so often and so long, after its first step and save have been compiled."""
    cold = _live(command(False), life)
    first = cold[0]["seconds"]
    starts, steps, firsts, began = [], list[float](), list[int](), time.monotonic()
    for _ in range(lives):
        said = _live(command(True), life)
        starts.append(said[0]["seconds"])
        firsts.append(said[0]["step"])
        steps += [b["seconds"] - a["seconds"] for a, b in itertools.pairwise(said)]
    wall = time.monotonic() - began
    counted = _live(command(True), 0.0)[0]["step"] - firsts[0]
    step = record.spread(steps or [0.0])
    useful = counted * step["median"]
    lost = (wall - useful) / lives
    return {
        "cold_seconds": first,
        "again": record.spread(starts),
        "step": {key: own for key, own in step.items() if key != "samples"},
        "steps": len(steps),
        "counted": counted,
        "seconds": wall,
        "goodput": useful / wall,
        "lost_a_kill": lost,
        "goodput_by_minutes": {
            str(minutes): max(0.0, 1 - lost / (60 * minutes)) for minutes in CALCULATED
        },
    }


def _live(command: list[str], life: float) -> list[dict[str, Any]]:
    """What a process says of its steps, with seconds from its start, until it is killed.

    Args:
        command: starts it.
        life: seconds from its start; it is killed then, but not before its first step.
    """
    began, said = time.monotonic(), []
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    killer = None
    try:
        for line in process.stdout:
            own = json.loads(line)
            said.append({"step": own["step"], "seconds": time.monotonic() - began})
            if killer is None:
                killer = threading.Timer(max(0.0, life - said[0]["seconds"]), process.kill)
                killer.start()
    finally:
        process.kill()
        process.wait()
        if killer is not None:
            killer.cancel()
    if not said:
        raise SystemExit(f"{command[2]} ended with {process.returncode} before its first step")
    return said


if __name__ == "__main__":
    main()
