"""How fast are images read? Images per second of one core's time, beside what others do.

    python -m benchmarks.input_pipeline

A thousand JPEG files of 500×375 pixels, cut from scikit-learn's two photographs, become random
crops resized to 224×224, uint8. Everyone reads the same files one after the other in one thread,
with the same boxes where the boxes are given from outside; what counts is the processor time of
the whole process, so that a busy machine lengthens nobody's seconds. Rounds of the contestants take
turns, and a ratio is the median of the rounds' own ratios. The bare loop asks for the crops of
three epochs, batch after batch; the loader is the pipeline that training reads from, with the same
examples in the same order, its start included. tf.data and torch's DataLoader take part where they
are installed.
"""

import contextlib
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record

SIZE, BATCH, EPOCHS = 224, 64, 3
# At least so many times as fast as a loop over Pillow, by what is read.
LIMITS = {"originals": 1.6, "resized": 4.3, "raw": 11.0}
LOADER_LIMIT, FIRST_LIMIT, WAIT_LIMIT = 0.97, 0.3, 0.01
Round = Callable[[], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is measured."""

    images: int
    rounds: int
    model: str
    steps: int


FULL = Amount(images=1000, rounds=7, model="resnet18", steps=30)
SMOKE = Amount(images=64, rounds=1, model="resnet_mini", steps=4)


def main() -> None:
    """Measures, prints the table and writes the JSON."""
    arguments = record.parser(__doc__).parse_args()
    amount = SMOKE if arguments.smoke else FULL
    with tempfile.TemporaryDirectory() as folder:
        photos = _draw_photos(Path(folder) / "photos", amount.images)
        rounds, readers = _contestants(photos, Path(folder) / "kept", amount.images)
        samples = _in_turns(rounds, amount)
        rows = [_row(name, own, samples) for name, own in samples.items()]
        rows += [_first(name, reader, amount.rounds) for name, reader in readers.items()]
        rows.append(_waiting(photos, amount))
    print(record.write(arguments.results, "input_pipeline", rows, **dataclasses.asdict(amount)))


def _draw_photos(folder: Path, count: int) -> Path:
    """Ten class folders of JPEG files as a camera might have made them."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    photos = [Image.fromarray(image) for image in load_sample_images().images]
    for index in range(count):
        rng = np.random.default_rng(index)
        photo = photos[index % 2]
        width = int(rng.integers(300, 560))
        height = width * 3 // 4
        left = int(rng.integers(0, photo.width - width + 1))
        top = int(rng.integers(0, photo.height - height + 1))
        part = photo.crop((left, top, left + width, top + height)).resize((500, 375))
        noisy = np.asarray(part) + rng.normal(0, 4, (375, 500, 3))
        path = folder / f"class{index % 10}" / f"{index:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(path, quality=90)
    return folder


def _contestants(photos: Path, kept: Path, count: int) -> tuple[dict[str, Round], dict[str, Any]]:
    """A round of each, images per second of processor time; and our readers by what they read."""
    from jtl.data.crop import CropOptions, draw_box
    from jtl.data.kept import keep_images
    from jtl.data.pipeline import TrainOrder
    from jtl.data.reader import Reader
    from jtl.data.sources.folders import load_folder
    from jtl.weights.preprocess import Preprocess

    source, preprocess, crop = load_folder(photos), Preprocess(), CropOptions()
    plain = Reader(source=source, size=SIZE, fit=preprocess.resize_and_crop, crop=crop)
    readers = {"originals": plain}
    for form in ("resized", "raw"):
        images = keep_images(
            source,
            form=form,  # type: ignore[arg-type]
            folder=kept,
            shrink=preprocess.shrink,
            identity=preprocess.shrinking,
        )
        readers[form] = dataclasses.replace(plain, kept=images)
    order = TrainOrder(indices=np.arange(count), batch_size=BATCH, seed=0)
    paths = [source.path(index) for index in range(count)]
    boxes = [draw_box(crop, 0, 0, index, (375, 500)) for index in range(count)]
    rounds: dict[str, Round] = {
        "Pillow, bare loop": lambda: _timed(count, lambda: _pillow(paths, boxes)),
        "OpenCV, bare loop": lambda: _timed(count, lambda: _opencv(paths, boxes)),
    }
    for name, reader in readers.items():
        rounds[f"jtl {name}, bare loop"] = _bare(reader, order, count)
        rounds[f"jtl {name}, loader"] = _loader(reader, order, count)
    return rounds | _torch(paths, count) | _tf(paths, count), readers


def _timed(count: int, work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return count / (time.process_time() - start)


def _pillow(paths: list[str], boxes: list[Any]) -> None:
    from PIL import Image

    out = np.empty((BATCH, SIZE, SIZE, 3), np.uint8)
    for index, (path, box) in enumerate(zip(paths, boxes)):
        image = Image.open(path).convert("RGB")
        edges = (box.left, box.top, box.left + box.width, box.top + box.height)
        out[index % BATCH] = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=edges)


def _opencv(paths: list[str], boxes: list[Any]) -> None:
    import cv2

    out = np.empty((BATCH, SIZE, SIZE, 3), np.uint8)
    for index, (path, box) in enumerate(zip(paths, boxes)):
        image = cv2.imread(path)
        part = image[box.top : box.top + box.height, box.left : box.left + box.width]
        cv2.cvtColor(cv2.resize(part, (SIZE, SIZE)), cv2.COLOR_BGR2RGB, dst=out[index % BATCH])


def _bare(reader: Any, order: Any, count: int) -> Round:
    chosen = [(order[step], order.view(step)) for step in range(EPOCHS * count // BATCH)]

    def work() -> None:
        for indices, views in chosen:
            reader.gather(indices, views)

    return lambda: _timed(len(chosen) * BATCH, work)


def _loader(reader: Any, order: Any, count: int) -> Round:
    from jtl.data.pipeline import train_batches

    steps = EPOCHS * count // BATCH

    def work() -> None:
        for _ in train_batches(reader, order, start=0, stop=steps):
            pass

    return lambda: _timed(steps * BATCH, work)


def _torch(paths: list[str], count: int) -> dict[str, Round]:
    try:
        import torch
        from torchvision.transforms import RandomResizedCrop
    except ImportError:
        return {}
    from PIL import Image

    torch.set_num_threads(1)
    crop = RandomResizedCrop(SIZE)

    class Files(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> np.ndarray:
            return np.array(crop(Image.open(paths[index]).convert("RGB")))

    def work() -> None:
        for _ in torch.utils.data.DataLoader(Files(), batch_size=BATCH, shuffle=True):
            pass

    return {"torch DataLoader with Pillow": lambda: _timed(count, work)}


def _tf(paths: list[str], count: int) -> dict[str, Round]:
    try:
        import tensorflow as tf
    except ImportError:
        return {}

    def read(path: Any) -> Any:
        data = tf.io.read_file(path)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(data),
            tf.zeros((1, 0, 4)),
            area_range=(0.08, 1.0),
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([begin[0], begin[1], size[0], size[1]])
        part = tf.image.decode_and_crop_jpeg(data, window, channels=3)
        return tf.cast(tf.image.resize(part, (SIZE, SIZE)), tf.uint8)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    batches = tf.data.Dataset.from_tensor_slices(paths).shuffle(count).map(read).batch(BATCH)
    batches = batches.prefetch(2).with_options(options)

    def work() -> None:
        for _ in batches.as_numpy_iterator():
            pass

    return {"tf.data with fused crop": lambda: _timed(count, work)}


def _in_turns(rounds: dict[str, Round], amount: Amount) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in rounds}
    for own in rounds.values():
        own()  # what is done once: imports, files in the system's memory
    for _ in range(amount.rounds):
        for name, own in rounds.items():
            samples[name].append(own())
    return samples


def _row(name: str, own: list[float], samples: dict[str, list[float]]) -> dict[str, Any]:
    times = _ratio(own, samples["Pillow, bare loop"])
    row = {"name": name, "images_per_cpu_second": record.spread(own), "times_pillow": times}
    text = f"{name:32} {statistics.median(own):8,.0f} images per CPU second {times:7.2f} × Pillow"
    read = name.removeprefix("jtl ").partition(",")[0]
    if name.startswith("jtl"):
        row["limit"] = LIMITS[read]
    if name.endswith("loader"):
        row["of_bare_loop"] = _ratio(own, samples[f"jtl {read}, bare loop"])
        row["of_bare_loop_limit"] = LOADER_LIMIT
        text += f", {row['of_bare_loop']:.3f} of the bare loop"
    print(text, flush=True)
    return row


def _ratio(own: list[float], other: list[float]) -> float:
    return statistics.median(one / two for one, two in zip(own, other))


def _first(name: str, reader: Any, rounds: int) -> dict[str, Any]:
    """Seconds from asking for a pipeline to its first batch, on as many threads as cores."""
    from jtl.data.options import DataOptions
    from jtl.data.pipeline import TrainOrder, train_batches

    order = TrainOrder(indices=np.arange(len(reader.source)), batch_size=BATCH, seed=0)
    reader = dataclasses.replace(reader, threads=DataOptions().decoders)
    seconds = []
    for start in range(rounds):
        began = time.perf_counter()
        with contextlib.closing(train_batches(reader, order, start=start, stop=10**6)) as batches:
            next(batches)
            seconds.append(time.perf_counter() - began)
    figures = record.spread(seconds)
    print(f"{f'first batch of {name}':32} {figures['median']:8.3f} s")
    return {"name": f"first batch of {name}", "seconds": figures, "limit": FIRST_LIMIT}


def _waiting(photos: Path, amount: Amount) -> dict[str, Any]:
    """The share of its time that a real training waits for images, as its summary says."""
    from jtl.config import Document, build
    from jtl.experiment import train
    from jtl.experiment.options import Config

    values = {
        "name": "waiting",
        "model": {"name": amount.model, "weights": None},
        "data": {"source": str(photos), "batch_size": 8, "split": {"val": 0.25, "test": 0}},
        "augment": {"crop": {}, "flip": 0.5},
        "train": {"monitor": None, "phases": [{"freeze": "none", "steps": amount.steps}]},
    }
    run = train(build(Config, Document(values=values)), workdir=photos.parent / "run")
    share = run.summary["data"]["waited"]
    print(f"{f'{amount.model} waits for data':32} {share:8.2%} of its time")
    return {"name": f"{amount.model} waits for data", "share": share, "limit": WAIT_LIMIT}


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
