"""How fast is `run.predict`, beside the bare evaluation step and beside an evaluation?

    python -m benchmarks.predict

The same images are predicted by `run.predict`, evaluated as a split is (read, decoded, cropped and
summed into metrics), and run through the compiled evaluation step as batches that lie on the device
already, which nothing can beat. They lie in memory at the network's size, or are JPEG files. The
sides take turns; ratios are those of the processor's time, which other work on the machine disturbs
less, in the best turn.
"""

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import jtl
from benchmarks import record
from jtl.data.options import DataOptions
from jtl.data.pipeline import eval_batches
from jtl.data.reader import Reader
from jtl.data.sources.paths import PathSource
from jtl.data.sources.protocol import Source
from jtl.engine.evaluation import make_eval_step
from jtl.experiment.assemble import make_prepare
from jtl.experiment.options import Config, ModelOptions
from jtl.experiment.predict import unlabelled
from jtl.experiment.run import Run
from jtl.training.evaluate import evaluate
from jtl.training.options import TrainOptions

CLASSES = 100
# Images in memory, images as files, images a step: none of them leaves a batch half empty.
SIZES = {"resnet_mini": (2048, 1024, 256), "resnet18": (32, 32, 16)}
SMOKE = {"resnet_mini": (32, 16, 16)}


def main() -> None:
    """Takes turns, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    turns, rows = 1 if arguments.smoke else 3, []
    print("network      images      predict/s  of an evaluation  of the step")
    for name, (arrays, files, batch) in (SMOKE if arguments.smoke else SIZES).items():
        run = _untrained(name, batch)
        for kind, count in (("in memory", arrays), ("JPEG files", files)):
            with tempfile.TemporaryDirectory() as folder:
                images = _images(run, count, Path(folder) if kind == "JPEG files" else None)
                wall, processor = _measure(_sides(run, images), turns)
            best = {side: min(own) for side, own in processor.items()}
            row = {
                "network": name,
                "images": kind,
                "count": count,
                "batch": batch,
                "seconds": {side: record.spread(own) for side, own in wall.items()},
                "processor_seconds": {side: record.spread(own) for side, own in processor.items()},
                "of_evaluation": best["evaluation"] / best["predict"],
                "of_step": best["step"] / best["predict"],
            }
            rows.append(row)
            speed = count / min(wall["predict"])
            figures = f"{row['of_evaluation']:17.3f} {row['of_step']:12.3f}"
            print(f"{name:12} {kind:10} {speed:10,.0f} {figures}")
    print(record.write(arguments.results, "predict", rows, load_average=os.getloadavg()[0]))


def _untrained(name: str, batch: int) -> Run:
    pretrained = jtl.load_model(name, weights=None, num_classes=CLASSES, rng=0)
    config = Config(
        model=ModelOptions(name=name, weights=None),
        data=DataOptions(eval_batch_size=batch),
        train=TrainOptions(placement="single"),
    )
    return Run(
        workdir=Path(),
        config=config,
        summary={},
        model=pretrained.model,
        variables=pretrained.variables,
        preprocess=pretrained.preprocess,
        classes=tuple(f"class {place}" for place in range(CLASSES)),
    )


def _images(run: Run, count: int, folder: Path | None) -> Any:
    """Smooth images at the network's size, or the paths of JPEG files of 500 by 375 pixels."""
    rng, size = np.random.default_rng(0), run.preprocess.input_size
    if folder is None:
        return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    width, height = (500, 375) if size > 64 else (48, 36)
    for place in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
        smooth.save(folder / f"{place:05}.jpg", quality=90)
    return sorted(map(str, folder.iterdir()))


def _sides(run: Run, images: Any) -> dict[str, Callable[[], Any]]:
    place, size = jtl.parallel.single(), run.config.data.eval_batch_size
    compiled = place.compile(make_eval_step(run.model, prepare=make_prepare(run.preprocess)))
    variables = place.put_state(run.variables)
    reader = _reader(run, unlabelled(images)[0])
    order = np.arange(len(images))

    def batches() -> Any:
        return eval_batches(reader, order, size, options=run.config.data.read)

    placed = [place.put_batch(batch) for batch in batches()]
    return {
        "predict": lambda: run.predict(images, top=5),
        "evaluation": lambda: evaluate(place, compiled, variables, batches()),
        "step": lambda: jax.block_until_ready([compiled(variables, own) for own in placed]),
    }


def _reader(run: Run, source: Source) -> Reader:
    return Reader(
        source=source,
        size=run.preprocess.input_size,
        fit=run.preprocess.resize_and_crop,
        threads=run.config.data.decoders,
        skip=isinstance(source, PathSource),
    )


def _measure(
    sides: dict[str, Callable[[], Any]], turns: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each turn, on the wall and of the processor, by side."""
    wall: dict[str, list[float]] = {side: [] for side in sides}
    processor: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(turns + 1):
        for side, act in sides.items():
            start, began = time.perf_counter(), time.process_time()
            act()
            if turn:  # the first turn compiles
                wall[side].append(time.perf_counter() - start)
                processor[side].append(time.process_time() - began)
    return wall, processor


if __name__ == "__main__":
    main()
