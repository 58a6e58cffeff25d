"""How long does it take to begin? Imports, `jtl --help`, and a run's first step, cold and again.

    python -m benchmarks.startup
    python -m benchmarks.startup --rounds 1

Everything is timed in processes of its own, from their start: commands to their end, runs until
their first step's loss is on the host. The runs train a ResNet-50 from a weight file on digits
enlarged to 128 px, 8 a batch. A cold start finds an empty cache of compiled programs, a second
one what the first left there; `compiled` counts the programs that are not found there.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import record

COMMANDS = {
    "python, nothing imported": "pass",
    "import jax, flax": "import jax, flax",
    "import jtl": "import jtl",
    "import jtl and all its public names": "from jtl import *",
    "jtl --help": "import sys; from jtl.cli import main; main(['--help'])",
}
HELP_LIMIT = 0.5  # seconds
TRAINED = {"full": "none", "head only": "backbone"}
# A second start's time to its first step, as a share of the cold start's.
AGAIN_LIMITS = {"full": 0.25, "head only": 0.12}


def main() -> None:
    """Takes commands and starts in turn, prints the table and writes the JSON."""
    parser = record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind")
    arguments = parser.parse_args()
    smoke, rounds = arguments.smoke, arguments.rounds
    rows = _commands(1 if smoke else 2 * rounds + 1, warm_up=not smoke)
    with tempfile.TemporaryDirectory() as folder:
        rows += _starts(Path(folder), 1 if smoke else rounds, smoke=smoke)
    print(record.write(arguments.results, "startup", rows))


def _commands(rounds: int, *, warm_up: bool) -> list[dict[str, Any]]:
    samples: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(rounds + warm_up):
        for name, code in COMMANDS.items():
            seconds = _seconds(code)
            if turn >= warm_up:  # the first round warms the disk's cache
                samples[name].append(seconds)
    peer = record.spread(samples["import jax, flax"])["median"]
    rows = []
    print(f"{'':38} seconds, median of {rounds}   beside import jax, flax")
    for name, own in samples.items():
        figures = record.spread(own)
        row = {"name": name, "seconds": figures, "ratio": figures["median"] / peer}
        rows.append(row | ({"limit_seconds": HELP_LIMIT} if name == "jtl --help" else {}))
        print(f"{name:38} {figures['median']:8.2f} {row['ratio']:25.2f}")
    return rows


def _starts(folder: Path, rounds: int, *, smoke: bool) -> list[dict[str, Any]]:
    model = "resnet_mini" if smoke else "resnet50"
    weights = weight_file(folder, model)
    found: dict[str, list[dict[str, Any]]] = {}
    for turn in range(rounds):
        for trained in ["head only"] if smoke else TRAINED:
            cache = folder / f"cache-{trained}-{turn}"
            for name in ("cold", "again"):
                workdir = folder / f"run-{trained}-{turn}-{name}"
                own = first_step(assignments(weights, model, TRAINED[trained]), workdir, cache)
                found.setdefault(f"{trained}, {name}", []).append(own)
    rows = []
    print(f"{'to the first step':38} seconds, median of {rounds}   of cold   compiled   fetched")
    for name, own in found.items():
        figures = record.spread([start["seconds"] for start in own])
        trained = name.partition(",")[0]
        cold = record.spread([start["seconds"] for start in found[f"{trained}, cold"]])["median"]
        row = {"name": f"first step, {name}", "seconds": figures, "ratio": figures["median"] / cold}
        row |= {key: [start[key] for start in own] for key in ("compiled", "fetched")}
        rows.append(row | ({"limit": AGAIN_LIMITS[trained]} if name.endswith("again") else {}))
        print(
            f"{name:38} {figures['median']:8.2f} {row['ratio']:20.2f} "
            f"{max(row['compiled']):10} {max(row['fetched']):9}"
        )
    return rows


def weight_file(folder: Path, model: str) -> Path:
    """A file of random parameters, for runs that begin with one."""
    import jtl
    from jtl.weights.preprocess import Preprocess

    pretrained = jtl.load_model(model, weights=None, num_classes=10, rng=0)
    record_of_input = Preprocess(input_size=128, resize=128)
    path = folder / f"{model}.safetensors"
    return jtl.save_weights(
        path, pretrained.model, pretrained.variables, preprocess=record_of_input
    )


def assignments(weights: Path, model: str, freeze: str, steps: int = 1) -> list[str]:
    """A run of so many steps, as overrides of the recipe `digits`."""
    phase = f"[{{freeze: {freeze}, steps: {steps}, schedule: {{rate: 1e-3}}}}]"
    return [
        *(f"model.name={model}", f"model.weights={weights}", "data.batch_size=8"),
        *("augment={}", f"train.phases={phase}", "train.loss={}", "train.cache=off"),
        *("train.monitor=null", "data.split.val=0", "train.evaluate_every=1e9"),
    ]


def first_step(
    assignments: list[str], workdir: Path, cache: Path, *, resume: bool = False
) -> dict[str, Any]:
    """What a run said after its first step, with the seconds from the process's start.

    Args:
        assignments: overrides of the recipe `digits`.
        workdir: the run's folder.
        cache: jtl's cache folder, with the compiled programs.
        resume: whether the run is to go on.
    """
    start = time.perf_counter()
    with run_process(assignments, workdir, cache, *(["--resume"] if resume else [])) as process:
        said = next(steps_of(process))
        said["seconds"] = time.perf_counter() - start
    return said


def run_process(
    assignments: list[str], workdir: Path, cache: Path, *options: str
) -> subprocess.Popen[str]:
    """A process of `benchmarks.contest.first_step`."""
    command = [sys.executable, "-m", "benchmarks.contest.first_step", "digits", *assignments]
    return subprocess.Popen(
        [*command, "--workdir", str(workdir), *options],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "JTL_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )


def steps_of(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """What a process says of its steps, until it ends."""
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)
    if process.wait():
        raise SystemExit(f"the run ended with {process.returncode} before its steps")


def _seconds(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
