"""What is a training step made of? Its time by part of the step and kind of operation.

    python -m benchmarks.shares
    python -m benchmarks.shares --network vgg16 --trained "head only" --batch 64

A profile of jtl's step, as `train_step` runs it, is laid beside the compiled program, which says of
each operation what it belongs to and which bytes it reads and writes. Products are convolutions
and products of matrices; sums are those of normalisation, losses and norms; what moves less than
4 MB is small, whatever it does. On a CPU times are those of threads, several of which run at once,
and products are left out, of which its profile times the beginning alone.
"""

import collections
import dataclasses
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.contest.cell import FREEZE, Cell
from benchmarks.reading import Operation, operations
from jtl.cli.memory import keep_memory, run_where_called

SMALL = 4_000_000  # bytes
STEPS = 3  # in the profile


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """One run of a kernel, or of an operation on a CPU.

    Attributes:
        name: the kernel's own.
        operation: the operation of the program that it belongs to, or what it was launched with.
        seconds: that it took.
    """

    name: str
    operation: str
    seconds: float


def main() -> None:
    """Profiles, prints the table and writes the JSON."""
    arguments = _arguments()
    keep_memory()
    run_where_called()
    import jax

    from benchmarks.contest.jtl_side import JtlSide

    on_cpu = jax.default_backend() == "cpu"
    pixels = 32 if arguments.smoke else 128 if on_cpu else arguments.pixels
    cell = Cell(
        network="resnet_mini" if arguments.smoke else arguments.network,
        trained=arguments.trained,
        precision="float32" if on_cpu else "bfloat16",
        batch=arguments.batch or (8 if on_cpu else 256),
        pixels=pixels,
    )
    side = JtlSide(cell, "")
    side.run(STEPS)
    start = time.perf_counter()
    side.run(STEPS)
    seconds = (time.perf_counter() - start) / STEPS
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            side.run(STEPS)
        (path,) = Path(folder).rglob("*.xplane.pb")
        events = read_events(path)
    program = operations(side.program())
    if on_cpu:
        program = {name: own for name, own in program.items() if own.kind != "products"}
        events = [own for own in events if own.operation in program]
    rows = shares(events, program, STEPS)
    notes = ["products: a CPU's profile times their beginning alone"] if on_cpu else []
    for note in notes:
        print(f"not measured: {note}")
    show(rows)
    fields = {**dataclasses.asdict(cell), "step_seconds": seconds, "unmeasured": notes}
    print(record.write(arguments.results, "shares", rows, **fields))


def _arguments() -> Any:
    parser = record.parser(__doc__)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--trained", choices=[own for own in FREEZE if own != "cached head"])
    parser.add_argument("--batch", type=int)
    parser.add_argument("--pixels", type=int, default=224, help="on an accelerator")
    parser.set_defaults(trained="full")
    return parser.parse_args()


def read_events(path: Path) -> list[Event]:
    """What ran on the devices, or on the host where it is the only one, by a profile's file."""
    import jax

    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [own for own in planes if own.name.startswith("/device:")]
    return [
        Event(
            name=event.name,
            operation=str(dict(event.stats).get("hlo_op", "")),
            seconds=event.duration_ns / 1e9,
        )
        for plane in devices or planes
        for line in plane.lines
        for event in line.events
        if devices or "hlo_op" in dict(event.stats)
    ]


def shares(
    events: Iterable[Event], program: Mapping[str, Operation], steps: int
) -> list[dict[str, Any]]:
    """A row for each part and kind, the longest first.

    Args:
        events: of so many steps.
        program: the operations of one step by name.
        steps: in the profile.
    """
    # A kernel is called as its operation, in letters that a kernel's name may have; operations
    # that are alike share one.
    by_kernel = {name.replace(".", "_").replace("-", "_"): own for name, own in program.items()}
    seconds: collections.Counter[tuple[str, str]] = collections.Counter()
    moved, runs = seconds.copy(), seconds.copy()
    for event in events:
        own = program.get(event.operation) or by_kernel.get(event.name)
        key = ("", "other") if own is None else (own.part, own.kind)
        if own is not None and own.kind != "products" and own.bytes < SMALL:
            key = ("", "small")
        seconds[key] += event.seconds
        runs[key] += 1
        moved[key] += own.bytes if own else 0
    total = sum(seconds.values())
    return [
        {
            "part": part,
            "kind": kind,
            "runs": runs[part, kind] / steps,
            "seconds": own / steps,
            "share": own / total,
            # A library's call takes several kernels, of which each would count its bytes.
            "bytes_per_second": None if kind == "products" else moved[part, kind] / own,
        }
        for (part, kind), own in seconds.most_common()
    ]


def show(rows: Iterable[Mapping[str, Any]]) -> None:
    """Prints the table."""
    print(f"{'part':10} {'kind':12} {'runs':>6} {'ms':>8} {'share':>6} {'GB/s':>7}")
    for row in rows:
        rate = row["bytes_per_second"]
        print(
            f"{row['part']:10} {row['kind']:12} {row['runs']:6.0f} {1e3 * row['seconds']:8.2f} "
            f"{100 * row['share']:4.0f} % {f'{rate / 1e9:7.0f}' if rate else ''}"
        )


if __name__ == "__main__":
    main()
