"""What does placement cost, and does it change a number?

    python -m benchmarks.placement

The same step of one network and the same global batch, alone on one device under `jit` and placed
by `pmap` and by a mesh over 1, 2, 4 and 8 devices. A CPU is split into eight simulated devices,
which share its cores: there the ratios are the overhead of placement and say nothing of speed-up.
On accelerators all that are there are used. The programs take turns; the losses of their first
steps are compared.
"""

import os
import time
from typing import Any

if "XLA_FLAGS" not in os.environ:  # before jax is imported; ignored where there is no CPU device
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import jax
import numpy as np
import optax

import jtl
from benchmarks import record


def main() -> None:
    """Takes turns, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    simulated = jax.default_backend() == "cpu"
    name, batch, size, turns = ("resnet18", 32, 64, 12) if simulated else ("resnet50", 256, 224, 60)
    if arguments.smoke:
        name, batch, size, turns = "resnet_mini", 8, 16, 2
    kind = "simulated on one CPU" if simulated else jax.devices()[0].device_kind
    print(f"{name}, batches of {batch}, {size} px, {jax.device_count()} devices, {kind}")
    counts = (1, 8) if arguments.smoke else (1, 2, 4, 8)
    rows = _measure(name, batch, size, turns, counts)
    print(f"{'placement':10} {'devices':>7} {'ms':>9} {'beside jit':>11} {'loss differs by':>16}")
    for row in rows:
        print(
            f"{row['placement']:10} {row['devices']:7d} {1e3 * row['seconds']['median']:9.2f} "
            f"{row['ratio']:11.3f} {row['difference']:16.1e}"
        )
    sizes = {"model": name, "batch": batch, "pixels": size, "simulated": simulated}
    print(record.write(arguments.results, "placement", rows, **sizes))


def _placements(counts: tuple[int, ...]) -> dict[tuple[str, int], Any]:
    found: dict[tuple[str, int], Any] = {("single", 1): jtl.parallel.single()}
    for count in [count for count in counts if count <= jax.device_count()]:
        devices = jax.devices()[:count]
        found["pmap", count] = jtl.parallel.pmap(devices)
        found["mesh", count] = jtl.parallel.mesh(devices)
    return found


def _measure(
    name: str, batch: int, size: int, turns: int, counts: tuple[int, ...]
) -> list[dict[str, Any]]:
    pretrained = jtl.load_model(name, None, 10, rng=0, dropout_rate=0.2)
    rng = np.random.default_rng(0)
    data = {
        "image": rng.standard_normal((batch, size, size, 3), np.float32),
        "label": rng.integers(0, 10, batch).astype(np.int32),
    }
    labels = jtl.freeze_labels(pretrained.variables["params"], "none")
    tx = jtl.partition_optimizer(optax.sgd(1e-3, momentum=0.9), labels)
    step = jtl.make_train_step(pretrained.model, tx)
    state = jtl.TrainState.create(pretrained.variables, tx, rng=0)
    running, losses = {}, {}
    seconds: dict[tuple[str, int], list[float]] = {}
    for key, place in _placements(counts).items():
        compiled, placed, put = place.compile(step), place.put_state(state), place.put_batch(data)
        placed, metrics = compiled(placed, put)
        losses[key], seconds[key] = float(metrics["loss"]), []
        running[key] = [compiled, placed, put]
    for _ in range(turns):
        for key, (compiled, placed, put) in running.items():
            start = time.perf_counter()
            running[key][1], _ = jax.block_until_ready(compiled(placed, put))
            seconds[key].append(time.perf_counter() - start)
    figures = {key: record.spread(samples) for key, samples in seconds.items()}
    alone, loss = figures["single", 1]["median"], losses["single", 1]
    return [
        {
            "placement": key[0],
            "devices": key[1],
            "seconds": own,
            "ratio": own["median"] / alone,
            "difference": abs(losses[key] - loss) / abs(loss),
        }
        for key, own in figures.items()
    ]


if __name__ == "__main__":
    main()
