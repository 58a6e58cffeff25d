"""What does the boundary cache save? Seconds an epoch of ResNet-50, with it and without.

    python -m benchmarks.cache_gain

A ResNet-50 of random parameters is trained on random images, its head alone and its last stage
with the head, without augmentation. An epoch is timed from its first batch being asked for to its
last update being done, reading, normalising and gathering included, compilation excluded. The
filling epoch computes all rows and trains from them. Epochs of the contestants take turns, so that
the ratios are those of one machine at one time; of the fast ones many are timed at once.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record

# What the cache promises: at least so many times as fast, and to fill at most so much slower.
LIMITS = {"head": 500.0, "last stage": 2.5}
FILLING_LIMIT = 1.05
FREEZE = {"head": "backbone", "last stage": ("stem..layer3",)}
BATCH = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    model: str
    pixels: int
    images: int
    turns: int


FULL = Size(model="resnet50", pixels=224, images=64, turns=3)
SMOKE = Size(model="resnet_mini", pixels=32, images=64, turns=1)


class Contestant:
    """One phase of training under one choice of cache, epoch by epoch."""

    def __init__(self, size: Size, trained: str, choice: str, folder: Path) -> None:
        from jtl.engine.state import TrainState

        self.feed, phase, variables, place = _feed(size, trained, choice, folder)
        state = TrainState.create(variables, phase.tx, rng=0)
        tail = self.feed.enter(0, state)
        self.compiled = place.compile(phase.step if tail is None else tail)
        self.running = place.put_state(state if tail is None else tail.cut(state))
        self.steps, self.step = size.images // BATCH, 0
        self.epochs(1)  # compiles, and fills

    def epochs(self, count: int) -> float:
        """Seconds of one epoch, the mean of so many."""
        import jax

        stop = self.step + count * self.steps
        start = time.perf_counter()
        for batch in self.feed.batches(0, self.step, stop):
            self.running, metrics = self.compiled(self.running, batch)
        jax.block_until_ready((self.running, metrics))
        self.step = stop
        return (time.perf_counter() - start) / count

    def filling(self) -> float:
        """Seconds of an epoch that computes the rows anew."""
        self.feed._open.rows.train_table.complete.clear()
        return self.epochs(1)


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    size = SMOKE if arguments.smoke else FULL
    rows: list[dict[str, Any]] = []
    print(f"{size.model}, {size.images} images at {size.pixels} px, batches of {BATCH}")
    print(f"{'':38} seconds an epoch, median of {size.turns}   times as fast")
    for trained in FREEZE:
        rows += _measure(size, trained)
    extra = dataclasses.asdict(size) | {"batch": BATCH}
    print(record.write(arguments.results, "cache_gain", rows, **extra))


def _measure(size: Size, trained: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        names = ("off", "device", "host", "file")
        own = {name: Contestant(size, trained, name, Path(folder) / name) for name in names}
        many = 2 if size.turns == 1 else (200 if trained == "head" else 1)
        contests: dict[str, Callable[[], float]] = {
            "without the cache": lambda: own["off"].epochs(1),
            "the epoch that fills it": own["device"].filling,
            "from device memory": lambda: own["device"].epochs(many),
            "from main memory": lambda: own["host"].epochs(many),
            "from a memory-mapped file": lambda: own["file"].epochs(many),
        }
        samples: dict[str, list[float]] = {name: [] for name in contests}
        for _ in range(size.turns):
            for name, contest in contests.items():
                samples[name].append(contest())
        plan = own["device"].feed._open.plan
    return [
        _row(trained, name, figures, samples["without the cache"], plan.bytes, plan.share)
        for name, figures in samples.items()
    ]


def _row(
    trained: str,
    name: str,
    samples: list[float],
    peer: list[float],
    size: int,
    share: float | None,
) -> dict[str, Any]:
    figures, without = record.spread(samples), record.spread(peer)
    ratio = without["median"] / figures["median"]
    row = {
        "name": f"{trained}: {name}",
        "seconds": figures,
        "times_as_fast": ratio,
        "bytes": size,
        "share_of_forward": share,
    }
    if name == "the epoch that fills it":
        row["limit"] = 1 / FILLING_LIMIT
    elif name != "without the cache":
        row["limit"] = LIMITS[trained]
    print(f"{row['name']:38} {figures['median']:12.5f} {ratio:30,.2f}", flush=True)
    return row


def _feed(size: Size, trained: str, choice: str, folder: Path) -> Any:
    import jax

    import jtl
    from jtl.data.augment import AugmentOptions
    from jtl.data.pipeline import IN_THREADS, TrainOrder, train_steps
    from jtl.data.reader import Reader
    from jtl.data.sources.arrays import ArraySource
    from jtl.engine.evaluation import make_eval_step
    from jtl.experiment.assemble import make_prepare
    from jtl.training.cache.feed import CachedFeed
    from jtl.training.cache.options import CacheLimits
    from jtl.training.cache.plan import Demand
    from jtl.training.feed import Streamed
    from jtl.training.options import PhaseOptions, TrainOptions
    from jtl.training.phases import make_phases
    from jtl.training.unreadable import Unreadable

    pretrained = jtl.load_model(size.model, None, 10, rng=jax.random.key(0))
    rng = np.random.default_rng(0)
    source = ArraySource(
        images=rng.integers(0, 256, (size.images, size.pixels, size.pixels, 3), dtype=np.uint8),
        labels=rng.integers(0, 10, size.images).astype(np.int32),
        classes=tuple("abcdefghij"),
    )
    fit = pretrained.preprocess.resize_and_crop
    reader = Reader(source=source, size=size.pixels, fit=fit)
    order = TrainOrder(indices=np.arange(size.images), batch_size=BATCH, seed=0)
    prepare = make_prepare(pretrained.preprocess, AugmentOptions(), 10)
    options = TrainOptions(phases=(PhaseOptions(freeze=FREEZE[trained], epochs=1e5),))
    params = pretrained.variables["params"]
    phases = make_phases(options, pretrained.model, params, order, prepare)
    place = jtl.parallel.single()

    def read(start: int, stop: int) -> Any:
        return train_steps(reader, order, start=start, stop=stop)

    demand = Demand(
        choice=choice,
        limits=CacheLimits(),
        augment=AugmentOptions(),
        order=order,
        val=0,
        image=jax.ShapeDtypeStruct(source.images.shape[1:], np.uint8),
        place=place,
        folder=folder,
    )
    feed = CachedFeed(
        streamed=Streamed(read=read, place=place, classes=10, check=None),
        phases=phases,
        demand=demand,
        reader=reader,
        unreadable=Unreadable(source),
        val=np.arange(0),
        eval_step=make_eval_step(pretrained.model, prepare=prepare),
        eval_batch_size=BATCH,
        preprocess=pretrained.preprocess.to_dict(),
        options=IN_THREADS,
        tell=lambda _: None,
    )
    return feed, phases[0], pretrained.variables, place


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
