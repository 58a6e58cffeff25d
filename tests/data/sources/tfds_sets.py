"""Small real TFDS datasets, prepared without TensorFlow, that tests share."""

import io
import json
import shutil
import struct
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from jtl.data.sources.tfrecord import masked_crc32c

CLASSES = ("circle", "square", "star")
SIZES = {"train": 12, "validation": 5, "test": 4}

tfds.disable_progress_bar()


def draw(index):
    """An image of its own for each index, as the bytes of a JPEG file."""
    noise = np.random.default_rng(index).integers(0, 256, (10 + index, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def example_number(split, place):
    """The index that `draw` was given for an example as the builders count them."""
    return 100 * list(SIZES).index(split) + place


class Small(tfds.core.GeneratorBasedBuilder):
    """A builder of somebody's own; `fields` and `values` say what differs below."""

    VERSION = tfds.core.Version("1.2.0")
    SUPPORTED_VERSIONS = [tfds.core.Version("1.0.0")]  # noqa: RUF012
    RELEASE_NOTES = {"1.2.0": "."}  # noqa: RUF012
    keys = ("image", "label")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            description="Small.",
            features=tfds.features.FeaturesDict(self.fields()),
            supervised_keys=self.keys,
            homepage="https://example.org/small",
            citation="@misc{small,\n  title={Small}}",
            license="CC0 1.0",
        )

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(name) for name in SIZES}

    def _generate_examples(self, split):
        for place in range(SIZES[split]):
            number = example_number(split, place)
            yield number, self.values(split, number)

    def fields(self):
        """An image and its label, among an image and a label that are not to be learnt."""
        return {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=CLASSES),
            "mask": tfds.features.Image(encoding_format="jpeg"),
            "species": tfds.features.ClassLabel(names=["cat", "dog"]),
            "number": np.int64,
        }

    def values(self, split, number):
        """The fields of one example."""
        return {
            "image": io.BytesIO(draw(number)),
            "label": number % 3,
            "mask": io.BytesIO(draw(0)),
            "species": 1,
            "number": number,
        }


class SmallFolder(Small):
    """Reads a folder of class folders, as paths."""

    def __init__(self, *, root, **rest):
        self.root = Path(root)
        super().__init__(**rest)

    def fields(self):
        """An image and its label."""
        names = sorted(path.name for path in self.root.iterdir())
        return {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=names),
        }

    def _split_generators(self, dl_manager):
        return {"train": self._files()}

    def _files(self):
        for path in sorted(self.root.rglob("*.*")):
            yield str(path), {"image": path, "label": path.parent.name}


class SmallSeveral(Small):
    """Any number of labels for each image, and nothing said about what is learnt."""

    keys = None

    def fields(self):
        """An image and its tags."""
        return {
            "photo": tfds.features.Image(encoding_format="jpeg"),
            "tags": tfds.features.Sequence(tfds.features.ClassLabel(names=CLASSES)),
        }

    def values(self, split, number):
        """As many tags as the number's remainder by 3."""
        return {"photo": io.BytesIO(draw(number)), "tags": list(range(number % 3))}


class SmallPlain(Small):
    """Images as plain numbers, and a test split whose labels were never published."""

    def fields(self):
        """An image and its label."""
        return {
            "image": tfds.features.Tensor(shape=(4, 5, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(num_classes=3),
        }

    def values(self, split, number):
        """One level all over."""
        level = np.full((4, 5, 1), number % 256, np.uint8)
        return {"image": level, "label": -1 if split == "test" else number % 3}


def prepared(builder_class, data_dir, **arguments):
    """The folder of a dataset that was prepared as ArrayRecord."""
    builder = builder_class(data_dir=str(data_dir), **arguments)
    builder.download_and_prepare(file_format="array_record")
    return Path(str(builder.data_dir))


def as_tfrecord(folder, data_dir, shards=2):
    """A copy of a prepared dataset whose splits are so many TFRecord files each."""
    builder = tfds.builder_from_directory(str(folder))
    copy = data_dir / folder.parent.name / folder.name
    copy.mkdir(parents=True)
    for path in folder.glob("*.[jt][sx][ot]*"):
        shutil.copy(path, copy)
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    info = json.loads((folder / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    for split in info["splits"]:
        records = list(builder.as_data_source(split["name"], deserialize_method=raw))
        pieces = np.array_split(np.arange(len(records)), shards)
        split["shardLengths"] = [str(len(piece)) for piece in pieces]
        for number, piece in enumerate(pieces):
            name = f"{info['name']}-{split['name']}.tfrecord-{number:05}-of-{shards:05}"
            write_tfrecord(copy / name, [records[index] for index in piece])
    (copy / "dataset_info.json").write_text(json.dumps(info))
    return copy


def write_tfrecord(path, payloads):
    """A TFRecord file by hand."""
    path.write_bytes(b"".join(framed(payload) for payload in payloads))


def framed(payload):
    """One record with its length and both checksums."""
    length = struct.pack("<Q", len(payload))
    ends = [struct.pack("<I", masked_crc32c(part)) for part in (length, payload)]
    return length + ends[0] + payload + ends[1]
