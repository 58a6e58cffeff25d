"""What do many trials at once cost? Hundreds of heads in one program, beside one ordinary run.

    python -m benchmarks.vectorised

A linear head on features of a ResNet-50 that are known already: 2,000 examples with 2,048 features
and 10 classes, batches of 64, five epochs, validation after each. The peer is one trial of one
fold, trained by the loop of `jtl train`: step by step from the cache, validated and saved after
every epoch. Beside it stand 100 trials (rates and decays) of 5 folds, and the 5 folds of one
trial. Each side is timed whole, with compilation, in a process that forgot its programs; trials
once more, as the next batch of a search, with programs at hand. Nothing reads an image, and no
network runs before the head.
"""

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record

# What is promised of wall times, compilation included.
LIMITS = {"100 trials of 5 folds": 3.0, "5 folds of one trial": 1.5}
FOLDS = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    model: str
    examples: int
    width: int
    trials: int
    epochs: int
    turns: int


FULL = Size(model="resnet50", examples=2000, width=2048, trials=100, epochs=5, turns=3)
SMOKE = Size(model="resnet_mini", examples=200, width=128, trials=3, epochs=1, turns=1)


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    size = SMOKE if arguments.smoke else FULL
    rng = np.random.default_rng(0)
    table = rng.normal(size=(size.examples, size.width)).astype(np.float32)

    def ordinary(cold: bool) -> float:
        return _ordinary(size, table, cold)

    contests: dict[str, Callable[[bool], float]] = {
        "one trial of one fold, the ordinary way": ordinary,
        "100 trials of 5 folds": lambda cold: _together(size, table, size.trials, cold),
        "5 folds of one trial": lambda cold: _together(size, table, 1, cold),
    }
    samples: dict[tuple[str, bool], list[float]] = {}
    for _ in range(size.turns):
        for name, contest in contests.items():
            # An ordinary run compiles its steps each time; programs of trials serve the next too.
            for cold in (True,) if contest is ordinary else (True, False):
                samples.setdefault((name, cold), []).append(contest(cold))
    rows = [_row(key, own, samples) for key, own in samples.items()]
    print(record.write(arguments.results, "vectorised", rows, **dataclasses.asdict(size)))


def _row(
    key: tuple[str, bool], own: Sequence[float], samples: dict[tuple[str, bool], list[float]]
) -> dict[str, Any]:
    name, cold = key
    peer = record.spread(samples["one trial of one fold, the ordinary way", True])
    figures = record.spread(own)
    row = {
        "name": f"{name}, {'with' if cold else 'without'} compilation",
        "seconds": figures,
        "times_the_ordinary": figures["median"] / peer["median"],
    }
    if cold and name in LIMITS:
        row["limit"] = LIMITS[name]
    print(
        f"{row['name']:62} {figures['median']:8.2f} s {row['times_the_ordinary']:8.2f} ×",
        flush=True,
    )
    return row


_WARM: dict[Any, Any] = {}


def _together(size: Size, table: np.ndarray, trials: int, cold: bool) -> float:
    """Seconds of training so many trials of all folds."""
    import jax

    from jtl.study.vectorised import Trials

    if cold:
        jax.clear_caches()
        _WARM[trials] = Trials(source=_source(size), folder=Path(tempfile.mkdtemp()))
    made = _WARM[trials]
    configs = [_config(size, trial, fold) for trial in range(trials) for fold in range(FOLDS)]
    if cold:
        shape = made._shape(configs[0])
        shape._features._examples, shape._features._rows = np.arange(size.examples), table
    start = time.perf_counter()
    outcomes = made.run(configs)
    assert all(own.failure is None for own in outcomes)
    return time.perf_counter() - start


def _ordinary(size: Size, table: np.ndarray, cold: bool) -> float:
    """Seconds of the loop of `jtl train` for one trial of one fold."""
    import jax

    from jtl.experiment.assemble import make_evaluator
    from jtl.experiment.feed import make_cached_feed
    from jtl.experiment.setup import set_up
    from jtl.training.cache.splits import EvalSplit, TrainSplit
    from jtl.training.loop import Loop
    from jtl.training.shared_checkpoints import open_checkpoints

    if cold:
        jax.clear_caches()
        _WARM["ordinary"] = None
    with tempfile.TemporaryDirectory() as folder:
        config = _config(size, 0, 0)
        setup = set_up(config, Path(folder), _source(size))
        evaluator = make_evaluator(
            config, setup.pretrained.model, setup.pretrained.preprocess, setup.place
        )
        feed = make_cached_feed(setup, evaluator, ())

        def fill(_: Any, own: Any, split: TrainSplit | EvalSplit, block: int) -> None:
            if block not in own.complete:
                who = split.examples if isinstance(split, TrainSplit) else split.indices
                own.write(0, jax.numpy.asarray(table[who]))
                own.finish(block)

        feed._fill = fill  # type: ignore[attr-defined]
        with open_checkpoints(Path(folder), config.train.checkpoint, {}) as checkpoints:
            loop = Loop(
                phases=setup.phases,
                order=setup.examples.order(config),
                feed=feed,
                place=setup.place,
                checkpoints=checkpoints,
                monitor="accuracy",
                listeners=(),
                evaluate_every=1.0,
                log_every=10,
            )
            start = time.perf_counter()
            outcome = loop.run(setup.pretrained.variables, config.seed)
            jax.block_until_ready(outcome.state.params)
            return time.perf_counter() - start


def _source(size: Size) -> Any:
    from jtl.data.sources.arrays import ArraySource

    return ArraySource(
        images=np.zeros((size.examples, 32, 32, 3), np.uint8),
        labels=(np.arange(size.examples) % 10).astype(np.int32),
        classes=tuple("abcdefghij"),
    )


def _config(size: Size, trial: int, fold: int) -> Any:
    from jtl.config import Document, build
    from jtl.experiment.options import Config

    phase = {
        "freeze": "backbone",
        "epochs": size.epochs,
        "schedule": {"rate": 10 ** (-4 + 2 * trial / 100)},
        "optimizer": {"weight_decay": 1e-3 * trial},
    }
    values = {
        "name": "vectorised",
        "model": {"name": size.model, "weights": None},
        "data": {"split": {"test": 0.0, "fold": {"count": FOLDS, "index": fold}}},
        "train": {"placement": "single", "cache": "device", "phases": [phase]},
    }
    return build(Config, Document(values=values))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
