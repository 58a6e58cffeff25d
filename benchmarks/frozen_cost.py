"""What does freezing save? Operations, memory and time of a ResNet-50's step, beside full training.

    python -m benchmarks.frozen_cost

Three steps of one network on the first device: head only, the last stage and all of it trained,
each with AdamW, clipping, weight decay, running means and the non-finite guard. Operations and
peak temporaries are the compiler's own count of each program; the times are of the programs
taking turns.
"""

import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jtl
from benchmarks import record
from jtl.engine.optim import OptimizerOptions, make_optimizer

TRAINED = {"head only": "backbone", "last stage": "stem..layer3", "full": "none"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How large the question is: network, images a batch, pixels a side, steps that are timed."""

    model: str
    batch: int
    pixels: int
    turns: int


@dataclasses.dataclass(kw_only=True)
class Contestant:
    """One compiled step, the state it goes on from, and the seconds its steps took."""

    step: Any
    state: Any
    seconds: list[float] = dataclasses.field(default_factory=list)


def main() -> None:
    """Compiles, takes turns, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    on_cpu = jax.default_backend() == "cpu"
    size = Size(model="resnet50", batch=128, pixels=224, turns=50)
    if on_cpu:
        size = Size(model="resnet50", batch=8, pixels=128, turns=15)
    if arguments.smoke:
        size = Size(model="resnet18", batch=2, pixels=32, turns=2)
    place = jtl.parallel.single()
    pretrained = jtl.load_model(size.model, weights=None, num_classes=10, rng=0)
    batch = place.put_batch(_batch(size))
    forward = _forward(pretrained, batch)
    contestants = {name: _contestant(pretrained, f, place, batch) for name, f in TRAINED.items()}
    _take_turns(contestants, batch, size.turns)
    print(f"{size.model}, {size.batch} images of {size.pixels} px, {jax.devices()[0].device_kind}")
    print(
        f"{'':12} {'GFLOP':>9} {'forwards':>9} {'MiB':>8} {'of full':>8} {'ms':>9} {'of full':>8}"
    )
    rows = _rows(contestants, forward)
    for row in rows:
        print(
            f"{row['name']:12} {row['flops'] / 1e9:9.2f} {row['forwards']:9.3f} "
            f"{row['temporary_bytes'] / 2**20:8.1f} {row['temporaries_of_full']:8.3f} "
            f"{1e3 * row['seconds']['median']:9.1f} {row['seconds_of_full']:8.3f}"
        )
    # Other work on the machine: what runs beside a measurement belongs to it.
    busy = os.getloadavg()[0]
    extra = {**dataclasses.asdict(size), "forward_flops": forward, "load_average": busy}
    print(record.write(arguments.results, "frozen_cost", rows, **extra))


def _batch(size: Size) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((size.batch, size.pixels, size.pixels, 3), np.float32)
    return {"image": images, "label": rng.integers(0, 10, size.batch).astype(np.int32)}


def _forward(pretrained: Any, batch: dict[str, jax.Array]) -> float:
    """Operations of one forward pass in evaluation."""
    apply: Callable[..., jax.Array] = pretrained.model.apply
    program = jax.jit(apply).lower(pretrained.variables, batch["image"]).compile()
    return program.cost_analysis()["flops"]


def _contestant(pretrained: Any, freeze: str, place: Any, batch: Any) -> Contestant:
    variables = pretrained.variables
    options = OptimizerOptions(name="adamw", weight_decay=1e-4, clip_norm=1.0)
    labels = jtl.freeze_labels(variables["params"], freeze)
    tx = jtl.partition_optimizer(make_optimizer(options, 1e-3), labels)
    step = jtl.make_train_step(pretrained.model, tx, freeze=freeze, ema_decay=0.999)
    state = place.put_state(jtl.TrainState.create(variables, tx, rng=0, ema=True))
    return Contestant(step=place.compile(step).lower(state, batch).compile(), state=state)


def _take_turns(contestants: dict[str, Contestant], batch: Any, turns: int) -> None:
    for turn in range(turns + 1):
        for own in contestants.values():
            start = time.perf_counter()
            own.state, _ = jax.block_until_ready(own.step(own.state, batch))
            if turn:  # the first turn warms up
                own.seconds.append(time.perf_counter() - start)


def _rows(contestants: dict[str, Contestant], forward: float) -> list[dict[str, Any]]:
    rows = []
    for name, own in contestants.items():
        flops = own.step.cost_analysis()["flops"]
        rows.append(
            {
                "name": name,
                "flops": flops,
                "forwards": flops / forward,
                "temporary_bytes": own.step.memory_analysis().temp_size_in_bytes,
                "seconds": record.spread(own.seconds),
            }
        )
    full = rows[-1]
    for row in rows:
        row["temporaries_of_full"] = row["temporary_bytes"] / full["temporary_bytes"]
        row["seconds_of_full"] = row["seconds"]["median"] / full["seconds"]["median"]
    return rows


if __name__ == "__main__":
    main()
