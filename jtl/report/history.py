"""What a run's `metrics.jsonl` tells, as series by step."""

import dataclasses
from collections import defaultdict
from pathlib import Path

from jtl.training.files import read_lines


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """Values of one quantity by step, in order.

    Attributes:
        steps: batches consumed.
        values: as many.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """The course of a run.

    Attributes:
        train: series of training steps by metric, `rate` and `images_per_second` among them.
        val: series of evaluations of the validation split by metric.
        phases: the steps at which phases after the first were entered.
        last: the last step that was recorded; 0 where there is none.
        seconds_left: of training, as the last record has it.
    """

    train: dict[str, Series]
    val: dict[str, Series]
    phases: tuple[int, ...]
    last: int
    seconds_left: float


def read_history(workdir: Path) -> History:
    """Reads what a run has recorded until now; empty where it has recorded nothing."""
    points: dict[str, dict[str, list[tuple[int, float]]]] = {
        "train": defaultdict(list),
        "val": defaultdict(list),
    }
    phases: dict[int, int] = {}
    last, left, before = 0, 0.0, 0
    for record in read_lines(workdir / "metrics.jsonl"):
        step = int(record["step"])
        kind = "train" if record["kind"] == "train" else record.get("split")
        if kind not in points:
            continue
        values = dict(record["metrics"])
        if kind == "train":
            phases.setdefault(record["phase"], before)
            before = last = step
            left = float(record.get("seconds_left", 0.0))
            values["images_per_second"] = record["images_per_second"]
        for name, value in values.items():
            if isinstance(value, int | float):
                points[kind][name].append((step, float(value)))
    series = {
        kind: {name: _series(own) for name, own in named.items()} for kind, named in points.items()
    }
    begins = tuple(step for phase, step in sorted(phases.items()) if phase)
    return History(**series, phases=begins, last=last, seconds_left=left)


def _series(points: list[tuple[int, float]]) -> Series:
    return Series(steps=tuple(step for step, _ in points), values=tuple(v for _, v in points))
