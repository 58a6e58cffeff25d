"""What a TFDS dataset's records say beside their pixels: labels, read once and kept beside it."""

import contextlib
import dataclasses
import hashlib
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from jtl.data.progress import told
from jtl.data.sources.names import shown
from jtl.data.sources.tfds_features import Features, image_of, labels_of
from jtl.data.sources.tfds_records import Records, Shard
from jtl.data.sources.tfrecord import scan_records
from jtl.errors import DataError

# Beside the dataset, which it is of no use without; another version of jtl makes its own.
_FILE = ".jtl-index-1.npz"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Index:
    """What was read of every record.

    Attributes:
        shards: the files, with the places of their records.
        labels: int32 `[records]`, or float32 `[records, classes]` where images have several; -1
            where a record has none.
        checksums: uint32 `[records]`, CRC-32 of each image as it is stored.
    """

    shards: tuple[Shard, ...]
    labels: np.ndarray
    checksums: np.ndarray


def read_index(
    folder: Path, shards: Sequence[Shard], features: Features, title: str, *, tfrecord: bool
) -> Index:
    """The labels and checksums of all records, from where they are kept or from the records.

    Args:
        folder: of the dataset, where they are kept once they were read; if it may not be written
            to, they are read each time.
        shards: the files.
        features: where image and label are.
        title: what messages call the dataset.
        tfrecord: whether the files are TFRecord, of which the records' places are found first.

    Raises:
        DataError: a file is missing, damaged or shorter than the dataset says.
    """
    path, key = folder / _FILE, _key(shards, features)
    kept = _load(path, key)
    if kept is not None:
        edges = np.cumsum([shard.examples_in_shard + 1 for shard in shards])[:-1]
        placed = _placed(shards, np.split(kept["starts"], edges)) if tfrecord else tuple(shards)
        return Index(shards=placed, labels=kept["labels"], checksums=kept["checksums"])
    starts = [scan_records(shard.filename) for shard in shards] if tfrecord else []
    placed = _placed(shards, starts) if tfrecord else tuple(shards)
    labels, checksums = _read(Records(shards=placed), features, title)
    whole = np.concatenate([np.zeros(0, np.int64), *starts])
    _keep(path, {"key": np.array(key), "labels": labels, "checksums": checksums, "starts": whole})
    return Index(shards=placed, labels=labels, checksums=checksums)


def _placed(shards: Sequence[Shard], starts: Sequence[np.ndarray]) -> tuple[Shard, ...]:
    short = [
        f"{shown(shard.filename)} has {len(own) - 1} records, not {shard.examples_in_shard}"
        for shard, own in zip(shards, starts)
        if len(own) - 1 != shard.examples_in_shard
    ]
    if short:
        raise DataError(
            f"{'; '.join(short)}: the dataset was not copied or prepared to its end; delete its "
            "folder and prepare it anew."
        )
    return tuple(dataclasses.replace(shard, starts=own) for shard, own in zip(shards, starts))


def _read(records: Records, features: Features, title: str) -> tuple[np.ndarray, np.ndarray]:
    rows: list[list[int]] = []
    checksums = np.zeros(len(records), np.uint32)
    count = len(records)
    for index in told(range(count), count, count, f"reading the labels of {title} once"):
        record = records[index]
        try:
            rows.append(labels_of(record, features))
            image = image_of(record, features)
            stored = image if isinstance(image, bytes) else image.tobytes()
            checksums[index] = zlib.crc32(stored)
        except ValueError as error:
            where = shown(records.shard(index).filename)
            raise DataError(
                f"{title}, record {index} in {where}: {error}; delete the dataset's folder and "
                "prepare it anew."
            ) from error
    return _labels(rows, features, title), checksums


def _labels(rows: list[list[int]], features: Features, title: str) -> np.ndarray:
    classes, lowest = len(features.classes), 0 if features.several else -1
    wrong = [place for place, row in enumerate(rows) for one in row if not lowest <= one < classes]
    if wrong:
        raise DataError(
            f"{title}: {len(wrong)} labels are no number of its {classes} classes, such as "
            f"{rows[wrong[0]]} of record {wrong[0]}; delete the dataset's folder and prepare it "
            "anew."
        )
    if not features.several:
        return np.array(rows, np.int32).reshape(len(rows))
    labels = np.zeros((len(rows), classes), np.float32)
    for place, row in enumerate(rows):
        labels[place, row] = 1
    return labels


def _key(shards: Sequence[Shard], features: Features) -> str:
    listed = [(Path(own.filename).name, own.skip, own.take, own.size, own.mtime) for own in shards]
    return hashlib.sha256(repr((listed, features)).encode()).hexdigest()


def _load(path: Path, key: str) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error):
        return None
    return arrays if str(arrays.get("key")) == key else None


def _keep(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes the file whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    # A folder that others own is only read.
    with contextlib.suppress(OSError):
        try:
            with part.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
