"""How long from the command to an accuracy? jtl's command beside scripts in PyTorch and Keras.

    python -m benchmarks.end_to_end

All train a ResNet of 210,566 parameters on the 1,077 training digits, 64 a batch, AdamW with the
same falling rate, and look at 360 validation digits after every epoch; the clock starts with the
process and stops when the accuracy is known to be 0.98. jtl also begins as `jtl train digits` does,
with the backbone that comes along. `cold` finds no compiled program on disk, `again` what the run
before it left there; Keras on JAX is given a folder for it too, PyTorch compiles nothing.
"""

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.peers.digits import BATCH, DECAY, RATE

TARGET, EPOCHS = 0.98, 30
PROJECT = Path(__file__).parent.parent
_SCRATCH = (
    "[{freeze: none, epochs: %d, schedule: {rate: %g}, optimizer: {name: adamw, weight_decay: %g}}]"
)
Said = Iterator[dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """Who trains.

    Attributes:
        name: as the table has it.
        command: of a seed, a number of epochs and a folder for what it writes.
        needs: a package to import, or None.
        starts: which of `cold` and `again` there are.
    """

    name: str
    command: Callable[[int, int, Path], list[str]]
    needs: str | None = None
    starts: tuple[str, ...] = ("cold", "again")


def _jtl(seed: int, folder: Path, *assignments: str) -> list[str]:
    sets = [f"--set={one}" for one in (f"seed={seed}", "data.split.seed=0", *assignments)]
    code = "from jtl.cli import main; main()"
    return [sys.executable, "-c", code, "train", "digits", f"--workdir={folder}", *sets]


def _from_scratch(seed: int, epochs: int, folder: Path) -> list[str]:
    phases = f"train.phases={_SCRATCH % (epochs, RATE, DECAY)}"
    options = ("model.weights=null", "augment={}", "train.loss={}", f"data.batch_size={BATCH}")
    return _jtl(seed, folder, phases, *options)


def _script(module: str) -> Callable[[int, int, Path], list[str]]:
    return lambda seed, epochs, _: [
        *(sys.executable, "-m", f"benchmarks.peers.{module}", str(seed), str(epochs))
    ]


SIDES = (
    Side(name="jtl train digits", command=lambda seed, _, folder: _jtl(seed, folder)),
    Side(name="jtl, from scratch", command=_from_scratch),
    Side(name="PyTorch", command=_script("torch_digits"), needs="torch", starts=("cold",)),
    Side(name="Keras on JAX", command=_script("keras_digits"), needs="keras"),
)


def main() -> None:
    """Lets the sides take turns, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    rounds, epochs, target = (1, 1, 0.1) if arguments.smoke else (5, EPOCHS, TARGET)
    able = []
    for side in SIDES[:1] if arguments.smoke else SIDES:
        if side.needs is not None and importlib.util.find_spec(side.needs) is None:
            print(f"{side.name}: left out, {side.needs} is not installed")
        else:
            able.append(side)
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(rounds):
            for side in able if seed % 2 else able[::-1]:
                cache = Path(scratch) / f"cache-{side.name}-{seed}"
                for start in side.starts[:1] if arguments.smoke else side.starts:
                    folder = Path(scratch) / f"run-{side.name}-{seed}-{start}"
                    own = _reach(side, seed, epochs, target, folder, cache)
                    found.setdefault((side.name, start), []).append(own)
    rows = _rows(found)
    print(record.write(arguments.results, "end_to_end", rows, target=target, epochs=epochs))


def _reach(
    side: Side, seed: int, epochs: int, target: float, folder: Path, cache: Path
) -> dict[str, Any]:
    """Seconds and epochs until the accuracy is said, from the start of the process."""
    environment = {**os.environ, "JTL_CACHE": str(cache), "JAX_COMPILATION_CACHE_DIR": str(cache)}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    began = time.time()
    process = subprocess.Popen(
        side.command(seed, epochs, folder),
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.DEVNULL if side.needs is None else subprocess.PIPE,
        text=True,
    )
    try:
        best = 0.0
        for said in _records(process, folder) if side.needs is None else _lines(process):
            best = max(best, said["accuracy"])
            if said["accuracy"] >= target:
                return {"seconds": said["at"] - began, "epochs": said["epoch"]}
    finally:
        process.kill()
        process.communicate()
    if process.returncode:
        raise SystemExit(f"{side.name} ended with {process.returncode}")
    return {"seconds": None, "epochs": None, "best": best}


def _lines(process: subprocess.Popen[str]) -> Said:
    """What a script says of its epochs."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
    process.wait()


def _records(process: subprocess.Popen[str], folder: Path) -> Said:
    """What a run records of its validations, as soon as it stands in the file."""
    path, seen = folder / "metrics.jsonl", 0
    while True:
        ended = process.poll() is not None
        lines = path.read_text("utf-8").split("\n")[:-1] if path.exists() else []
        for line in lines[seen:]:
            said = json.loads(line)
            if said["kind"] == "evaluation":
                accuracy = said["metrics"]["accuracy"]
                yield {"epoch": said["epoch"], "accuracy": accuracy, "at": time.time()}
        seen = len(lines)
        if ended:
            return
        time.sleep(0.01)


def _rows(found: dict[tuple[str, str], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    first = next(runs for (name, _), runs in found.items() if name.startswith("jtl"))
    first = found.get(("jtl, from scratch", "cold"), first)
    own = statistics.median(_reached(first) or [float("nan")])
    rows = []
    print(f"{'':26} {'seconds':>8} {'epochs':>7} {'reached':>8} {'of jtl, from scratch, cold':>28}")
    for (name, start), runs in found.items():
        row = {"side": name, "start": start, "runs": runs, "reached": len(_reached(runs))}
        if row["reached"]:
            row["seconds"] = record.spread(_reached(runs))
            row["ratio"] = row["seconds"]["median"] / own
            epochs = statistics.median(run["epochs"] for run in runs if run["epochs"])
            print(
                f"{name + ', ' + start:26} {row['seconds']['median']:8.1f} {epochs:7.1f} "
                f"{row['reached']:4} of {len(runs)} {row['ratio']:28.2f}"
            )
        else:
            print(f"{name + ', ' + start:26} not reached")
        rows.append(row)
    return rows


def _reached(runs: list[dict[str, Any]]) -> list[float]:
    return [run["seconds"] for run in runs if run["seconds"] is not None]


if __name__ == "__main__":
    main()
