"""What does a training step need on a chip that is not at hand? Its compiler is asked.

    pip install '.[bench]' 'jax[tpu]'    # or 'jax[cuda12]'; a machine without either chip will do
    python -m benchmarks.ahead
    python -m benchmarks.ahead --chips h100 --networks resnet50 --trained full

In an environment of its own: `jtl train` takes a machine with these packages for one with such a
chip, and leaves its memory's allocator alone.

jtl's step, as `train_step` measures it, is compiled for a TPU v5e and an H100 and runs nowhere:
operations, bytes and memory are the compiler's count. Times are calculated, not measured: by the
makers' ceilings, the larger of that of arithmetic and that of memory as the least time of a step.
Full training is compiled three times more: with every stage computed again in the backward pass,
and for the eight chips of a host, with BatchNorm's statistics of the global batch and of each
chip's own part. Sums over the chips are read off the compiled program, and take what time other
work that is written between their beginning and end does not fill. The chips of a host are asked
of for ResNet-50 alone.
"""

import argparse
import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # to compile, no chip is looked for

import jax

from benchmarks import record
from benchmarks.absent.chips import CHIPS, Chip
from benchmarks.absent.compile import ask
from benchmarks.contest.cell import Cell
from jtl.models.registry import create_model

PIXELS = {"inception_v3": 299}
TRAINED = ("full", "last stage", "head only")
SCALED = ("resnet50", "resnet_mini")  # over the chips of a host
# How a step is compiled: as it is, rematerialised, and for all chips of a host.
PLAIN, AGAIN, GLOBAL, OWN = "", "stages again", "8 chips", "8 chips, own norms"


def main() -> None:
    """Asks of each chip, prints its table and writes its JSON after each answer."""
    arguments = _arguments()
    for name in arguments.chips:
        chip = CHIPS[name]
        if chip.missing:
            print(f"not asked: {chip.compiler}, which compiles for {chip.name}, is not installed")
            continue
        print(
            f"{chip.name:15} {'trained':10} {'how':18} {'GFLOP':>6} {'MB':>6} {'matrix ms':>9} "
            f"{'memory ms':>9} {'sums':>4} {'ms':>5} {'temp GiB':>8} {'peak GiB':>8} {'made s':>6} "
            f"{'temp':>5} {'time':>5}"
        )
        figures = dataclasses.asdict(chip)
        del figures["topology"]
        rows: list[dict[str, Any]] = []
        for cell, how in _questions(arguments):
            rows.append(_answer(chip, cell, how, rows))
            _print(rows[-1])
            path = record.write(arguments.results, "ahead", rows, device=chip.name, chip=figures)
        print(path)


def _arguments() -> argparse.Namespace:
    parser = record.parser(__doc__)
    for name in ("chips", "networks", "trained"):
        parser.add_argument(f"--{name}", type=lambda text: text.split(","), metavar="A,B")
    parser.add_argument("--batch", type=int, default=256, help="images a chip")
    parser.set_defaults(chips=list(CHIPS))
    return parser.parse_args()


def _questions(arguments: argparse.Namespace) -> Iterator[tuple[Cell, str]]:
    smoke = arguments.smoke
    networks = arguments.networks or ["resnet50", "vgg16", "inception_v3"]
    for network in ["resnet_mini"] if smoke else networks:
        for trained in ["full"] if smoke else arguments.trained or TRAINED:
            cell = Cell(
                network=network,
                trained=trained,
                precision="bfloat16",
                batch=8 if smoke else arguments.batch,
                pixels=32 if smoke else PIXELS.get(network, 224),
            )
            yield cell, PLAIN
            if trained == "full":
                yield dataclasses.replace(cell, remat=create_model(network).chain[:-1]), AGAIN
            if trained == "full" and network in SCALED:
                yield cell, GLOBAL
                yield cell, OWN


def _answer(chip: Chip, cell: Cell, how: str, before: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row: what is needed, and beside the plain step of the same network and part."""
    row = {
        "network": cell.network,
        "trained": cell.trained,
        "how": how,
        "batch": cell.batch,
        "pixels": cell.pixels,
        "remat": cell.remat,
    }
    devices = 8 if how in (GLOBAL, OWN) else 1
    try:
        program = ask(chip, cell, devices=devices, global_batch_norm=how != OWN)
    except jax.errors.JaxRuntimeError as error:
        return {**row, "failed": str(error).strip().splitlines()[0][:300]}
    row |= {
        **dataclasses.asdict(program),
        "flops_per_image": program.flops / cell.batch,
        "bytes_per_image": program.bytes / cell.batch,
        **chip.step_seconds(program.flops, program.bytes),
        "sums_seconds": chip.sums_seconds(program.sums, devices),
    }
    same = (cell.network, cell.trained, PLAIN)
    for plain in before:
        if (plain["network"], plain["trained"], plain["how"]) == same and "failed" not in plain:
            row |= _beside(row, plain)
    return row


def _beside(row: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    beside = {"seconds_of_plain": (row["seconds"] + row["sums_seconds"]) / plain["seconds"]}
    for name in ("flops", "bytes", "seconds_one_after_the_other", "temporary_bytes"):
        if plain[name]:  # a tiny network has no temporaries
            beside[f"{name}_of_plain"] = row[name] / plain[name]
    return beside


def _print(row: dict[str, Any]) -> None:
    about = f"{row['network']:15} {row['trained']:10} {row['how']:18}"
    if "failed" in row:
        print(f"{about} {row['failed']}", flush=True)
        return

    def ratio(name: str) -> str:
        return f"{row[name]:5.3f}" if name in row else ""

    print(
        f"{about} {row['flops_per_image'] / 1e9:6.1f} {row['bytes_per_image'] / 1e6:6.1f} "
        f"{1e3 * row['matrix_seconds']:9.1f} {1e3 * row['memory_seconds']:9.1f} "
        f"{len(row['sums']):4} {1e3 * row['sums_seconds']:5.2f} "
        f"{row['temporary_bytes'] / 2**30:8.2f} {row['peak_bytes'] / 2**30:8.2f} "
        f"{row['trace_seconds'] + row['compile_seconds']:6.0f} "
        f"{ratio('temporary_bytes_of_plain'):>5} {ratio('seconds_of_plain'):>5}",
        flush=True,
    )


if __name__ == "__main__":
    main()
