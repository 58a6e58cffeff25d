"""How fast is a training step? Beside PyTorch, Keras, and what the device can do at most.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --networks resnet50 --trained full --batches 64,256

Each network, part that is trained, precision and batch size is a contest: every side is a process
of its own on the same device, gets ready, and then runs steps when it is its turn, so that all
meet the same machine. A side takes one batch that stays where it is, and runs AdamW; jtl's step
also gives accuracy, the gradient's norm and the guard against what is not finite; of full training
on an accelerator a second side computes every stage again in the backward pass. PyTorch runs
torchvision's network with channels last, autocast, the fused optimizer and, as a second side,
`torch.compile`; Keras runs its own network on JAX. The ceilings, products of matrices and copies
of memory, take turns with the rest. The JSON is written after each contest.
"""

import argparse
import contextlib
import functools
import itertools
import os
import statistics
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from benchmarks import record
from benchmarks.contest.cell import FREEZE, Cell
from benchmarks.contest.contestants import Contestant, Entry, prepare_alone, take_turns
from benchmarks.contest.jtl_process import AGAIN

SIDES = (
    Entry(name="jtl", module="jtl_process"),
    Entry(name="jtl, stages again", module="jtl_process", variant=AGAIN),
    Entry(name="PyTorch", module="torch_side", needs=("torch", "torchvision")),
    Entry(
        name="PyTorch, compiled",
        module="torch_side",
        variant="compile",
        needs=("torch", "torchvision"),
    ),
    Entry(name="Keras on JAX", module="keras_side", needs=("keras",)),
)
PIXELS = {"inception_v3": 299}
PRECISIONS = ["bfloat16", "tf32", "float32"]


CEILINGS = ("matrix_flops_per_second", "copy_bytes_per_second")


def main() -> None:
    """Holds the contests, prints the table and writes the JSON."""
    arguments = _arguments()
    on_cpu = _backend() == "cpu"
    sides = [own for own in SIDES if not own.missing]
    notes = [
        f"{own.name}: {' and '.join(own.missing)} not installed" for own in SIDES if own.missing
    ]
    if on_cpu:
        notes.append("tf32: this device has none; peak_bytes are of the whole process")
        notes.append("jtl, stages again: a CPU's compiler merges what is to be computed twice")
    for note in notes:
        print(f"not measured: {note}")
    print(
        f"{'network':13} {'trained':12} {'precision':9} {'batch':>5} {'side':18} {'images/s':>10} "
        f"{'of jtl':>7} {'matrix':>7} {'copy':>6} {'peak MiB':>9} {'ready s':>8}"
    )
    rows: list[dict[str, Any]] = []
    path = record.write(arguments.results, "train_step", [], unmeasured=notes)
    too_large: set[tuple[str, str, str]] = set()
    cells = iter(_cells(arguments, on_cpu))
    while group := list(itertools.islice(cells, arguments.together)):
        group = [own for own in group if _kind(own) not in too_large]
        for cell, found in zip(group, _hold(group, sides, arguments, on_cpu), strict=True):
            if found[0].get("failed"):
                too_large.add(_kind(cell))  # larger batches need no try
            for row in found:
                _print(row)
            rows += found
        path = record.write(arguments.results, "train_step", rows, unmeasured=notes)
    print(path)


def _arguments() -> argparse.Namespace:
    parser = record.parser(__doc__)
    for name in ("networks", "batches"):
        parser.add_argument(f"--{name}", type=lambda text: text.split(","), metavar="A,B")
    for name, known in (("trained", FREEZE), ("precisions", PRECISIONS)):
        parser.add_argument(f"--{name}", type=functools.partial(_some_of, known), metavar="A,B")
    parser.add_argument("--pixels", type=int)
    parser.add_argument(
        "--together",
        type=int,
        default=1,
        help="contests whose sides all get ready at once, on an accelerator with room for it",
    )
    parser.add_argument("--seconds", type=float, help="of a turn, about")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    return parser.parse_args()


def _some_of(known: Collection[str], text: str) -> list[str]:
    """What is asked for, of what there is."""
    chosen = text.split(",")
    if unknown := [own for own in chosen if own not in known]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(known)}")
    return chosen


def _cells(arguments: argparse.Namespace, on_cpu: bool) -> Iterator[Cell]:
    networks, batches = ["resnet50", "vgg16", "inception_v3"], ["64", "256", "512", "1024"]
    precisions, pixels = PRECISIONS, arguments.pixels
    if on_cpu:
        batches, precisions, pixels = ["8"], ["float32"], pixels or 128
    if arguments.smoke:
        networks, batches, pixels = ["resnet18"], ["2"], 32
    trained = arguments.trained or (["cached head"] if arguments.smoke else list(FREEZE))
    for network in arguments.networks or networks:
        for part in trained:
            for precision in arguments.precisions or precisions:
                for batch in arguments.batches or batches:
                    yield Cell(
                        network=network,
                        trained=part,
                        precision=precision,
                        batch=int(batch),
                        pixels=pixels or PIXELS.get(network, 224),
                    )


def _kind(cell: Cell) -> tuple[str, str, str]:
    return cell.network, cell.trained, cell.precision


def _hold(
    cells: Sequence[Cell], sides: Sequence[Entry], arguments: argparse.Namespace, on_cpu: bool
) -> list[list[dict[str, Any]]]:
    """Contests, of which one is held at a time; of each a row a side, jtl's first."""
    ceiling = Entry(name="ceilings", module="ceilings", variant="smoke" * arguments.smoke)
    smoke = arguments.smoke
    seconds = arguments.seconds or (1.5 if on_cpu else 1.0)
    # On a CPU sides get ready one after the other, or they would slow each other's compilers; so
    # they do beside an accelerator, which has no room for what all of them try at once.
    alone = not on_cpu and arguments.together == 1
    with contextlib.ExitStack() as stack:
        contests: list[list[Contestant]] = []
        for cell in cells:
            contests.append([])
            again = cell.trained == "full" and not on_cpu
            for entry in (ceiling, *(own for own in sides if own.variant != AGAIN or again)):
                kept = Path(stack.enter_context(tempfile.TemporaryDirectory())) if alone else None
                said = {} if kept is None else prepare_alone(entry, cell, kept)
                contests[-1].append(stack.enter_context(Contestant(entry, cell, kept)))
                if on_cpu or alone:
                    contests[-1][-1].get_ready()
                contests[-1][-1].facts.update(said)
        for contestant in itertools.chain(*contests) if not (on_cpu or alone) else ():
            contestant.get_ready()
        for contestants in contests:
            take_turns(
                contestants,
                rounds=1 if smoke else arguments.rounds,
                seconds=0.0 if smoke else seconds,
                most_steps=1 if smoke else 2000,
            )
    return [_rows(cell, contestants) for cell, contestants in zip(cells, contests, strict=True)]


def _rows(cell: Cell, contestants: Sequence[Contestant]) -> list[dict[str, Any]]:
    first, own, *_ = contestants
    seconds = statistics.median(own.seconds) if own.seconds else None
    flops = own.facts.get("flops")
    return [_row(cell, other, first.facts, flops, seconds) for other in contestants[1:]]


def _row(
    cell: Cell,
    side: Contestant,
    ceilings: dict[str, Any],
    flops: float | None,
    seconds_of_jtl: float | None,
) -> dict[str, Any]:
    row = {
        "network": cell.network,
        "trained": cell.trained,
        "precision": cell.precision,
        "batch": cell.batch,
        "pixels": cell.pixels,
        "name": side.entry.name,
    }
    if side.failed or not side.seconds:
        return {**row, "failed": side.failed or "no turn"}
    figures = record.spread(side.seconds)
    seconds = figures["median"]
    row |= {
        "seconds": figures,
        "images_per_second": cell.batch / seconds,
        "seconds_of_jtl": seconds / seconds_of_jtl if seconds_of_jtl else None,
        "make_seconds": side.facts["make_seconds"],
        "first_step_seconds": side.facts["first_step_seconds"],
        "peak_bytes": side.facts["peak_bytes"],
        "peak_by": side.facts["peak_by"],
        **{name: ceilings.get(name) for name in CEILINGS},
    }
    if flops and ceilings.get("matrix_flops_per_second"):
        row["flops"] = flops
        row["matrix_share"] = flops / seconds / ceilings["matrix_flops_per_second"]
    if side.facts.get("bytes") and ceilings.get("copy_bytes_per_second"):
        row["bytes"] = side.facts["bytes"]
        row["temporary_bytes"] = side.facts["temporary_bytes"]
        row["copy_share"] = row["bytes"] / seconds / ceilings["copy_bytes_per_second"]
    return row


def _print(row: dict[str, Any]) -> None:
    about = f"{row['network']:13} {row['trained']:12} {row['precision']:9} {row['batch']:5}"
    if "failed" in row:
        print(f"{about} {row['name']:18} {row['failed']}")
        return

    def share(name: str) -> str:
        return f"{100 * row[name]:.0f} %" if name in row else ""

    ready = row["make_seconds"] + row["first_step_seconds"]
    beside = "" if row["seconds_of_jtl"] is None else f"{row['seconds_of_jtl']:.2f}"
    print(
        f"{about} {row['name']:18} {row['images_per_second']:10.1f} {beside:>7} "
        f"{share('matrix_share'):>7} {share('copy_share'):>6} {row['peak_bytes'] / 2**20:9.0f} "
        f"{ready:8.1f}",
        flush=True,
    )


def _backend() -> str:
    import jax

    return jax.default_backend()


if __name__ == "__main__":
    main()
