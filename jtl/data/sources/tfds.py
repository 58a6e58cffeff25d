"""TFDS datasets as sources, read by random access and without TensorFlow."""

import bisect
import dataclasses
import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jtl.data.sources.listing import first_of
from jtl.data.sources.names import shown
from jtl.data.sources.tfds_features import Features, choose_features, image_of
from jtl.data.sources.tfds_find import parse_name
from jtl.data.sources.tfds_index import read_index
from jtl.data.sources.tfds_prepare import prepare
from jtl.data.sources.tfds_records import Records, Shard
from jtl.errors import DataError

# The formats that are read, the better first.
_FORMATS = ("array_record", "tfrecord")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """The examples of one split, which stand side by side.

    Attributes:
        name: TFDS's own.
        start: its first example.
        stop: the one after its last.
    """

    name: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TfdsSource:
    """All splits of a TFDS dataset, one after the other.

    Attributes:
        title: the dataset's name with config and version.
        records: of every example.
        features: where in a record image and label are.
        parts: where each split lies among the examples.
        labels: int32 `[examples]`, or float32 `[examples, classes]` where images have several.
        splits: the examples of each split, int `[n]`; TFDS's `validation` is `val`.
        provenance: name, version, citation, homepage and licence, as far as the dataset says.
        fingerprint: SHA-256 over the dataset's name and version, classes, splits, labels and the
            CRC-32 of every image as it is stored; the same for ArrayRecord and TFRecord.
    """

    title: str
    records: Records
    features: Features
    parts: tuple[Split, ...]
    labels: np.ndarray
    splits: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]
    fingerprint: str

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class, by label."""
        return self.features.classes

    @property
    def groups(self) -> None:
        """TFDS says nothing of groups."""
        return

    def __len__(self) -> int:
        """The number of examples."""
        return len(self.records)

    def __getitem__(self, index: int) -> bytes | np.ndarray:
        """One image: its file's bytes, or uint8 `[height, width, 3 or 4]` where it has none.

        Raises:
            DataError: it cannot be read, or its file is not what it was.
        """
        try:
            return image_of(self.records[index], self.features)
        except ValueError as error:
            raise DataError(f"{self.where(index)}: {error}.") from error

    def name(self, index: int) -> str:
        """The split and the example's place in it, such as `train/17`."""
        part = self._part(index)
        return f"{part.name}/{index - part.start}"

    def where(self, index: int) -> str:
        """The dataset, split, place and file."""
        part, file = self._part(index), shown(self.records.shard(index).filename)
        return f"{self.title}, example {index - part.start} of {part.name} (in {file})"

    def _part(self, index: int) -> Split:
        return self.parts[bisect.bisect_right([part.stop for part in self.parts], index)]


def load_tfds(name: str, *, data_dir: Path | None = None) -> TfdsSource:
    """A dataset of TFDS, which is prepared first where it is not on this machine.

    Args:
        name: `NAME`, `NAME/CONFIG` or `NAME/CONFIG:VERSION`; without a version the newest that is
            on this machine.
        data_dir: where TFDS keeps its datasets; None is its own default, `$TFDS_DATA_DIR` or
            `~/tensorflow_datasets`.

    Raises:
        DataError: there is no such dataset, config or version; it must be prepared and cannot be;
            it has no single image and label; or a file of it is missing or damaged.
    """
    kept = None if data_dir is None else data_dir.expanduser()
    return open_folder(prepare(parse_name(name), kept))


def from_builder(builder: Any, *, data_dir: Path | None = None) -> TfdsSource:
    """A dataset of one's own builder, prepared as ArrayRecord in this process if it is not yet.

    Args:
        builder: a `tfds.core.DatasetBuilder`, or a class of them that needs no arguments.
        data_dir: where a class keeps its dataset; None is TFDS's own default.

    Raises:
        DataError: as `load_tfds`.
    """
    if isinstance(builder, type):
        builder = builder(data_dir=None if data_dir is None else str(data_dir.expanduser()))
    if not builder.is_prepared():
        builder.download_and_prepare(file_format=_FORMATS[0])
    return open_folder(Path(str(builder.data_dir)))


def open_folder(folder: Path) -> TfdsSource:
    """A dataset that TFDS prepared.

    Args:
        folder: of one version, with `dataset_info.json` and `features.json`.

    Raises:
        DataError: it has no single image and label, or a file of it is missing or damaged.
    """
    info = _read_info(folder)
    title = f"tfds:{info.full_name}"
    features = choose_features(title, info.features, info.supervised_keys)
    chosen = _set_format(title, info)
    listed = _shards(title, info)
    every = [shard for own in listed.values() for shard in own]
    index = read_index(folder, every, features, title, tfrecord=chosen == "tfrecord")
    parts = _parts({name: sum(shard.take for shard in own) for name, own in listed.items()})
    blank = _unlabelled(title, parts, index.labels)
    sizes = {part.name: part.stop - part.start for part in parts if part.name not in blank}
    kept = np.concatenate([np.arange(own.start, own.stop) for own in parts if own.name in sizes])
    of_split = [name for name, own in listed.items() for _ in own]
    labels, parts = index.labels[kept], _parts(sizes)
    return TfdsSource(
        title=title,
        records=Records(shards=[s for s, name in zip(index.shards, of_split) if name in sizes]),
        features=features,
        parts=parts,
        labels=labels,
        splits={_renamed(own.name, sizes): np.arange(own.start, own.stop) for own in parts},
        provenance=_provenance(info, chosen, blank),
        fingerprint=_fingerprint(info, features, sizes, labels, index.checksums[kept]),
    )


def _read_info(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(str(folder)).info
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{shown(str(folder))} is no dataset that TFDS prepared: {error}."
        ) from error


def _set_format(title: str, info: Any) -> str:
    """The format that is read; the paths that `info` gives are then of its files."""
    there = [kind.value for kind in info.available_file_formats()]
    for kind in _FORMATS:
        if kind in there:
            info.set_file_format(kind, override=True, override_if_initialized=True)
            return kind
    raise DataError(
        f"{title} is stored as {', '.join(there) or 'nothing'}, but {' and '.join(_FORMATS)} are "
        "read; prepare it with download_and_prepare(file_format='array_record')."
    )


def _shards(title: str, info: Any) -> dict[str, list[Shard]]:
    """The files of each split; empty splits are left out."""
    listed: dict[str, list[Shard]] = {}
    missing = []
    for name, split in info.splits.items():
        for own in split.file_instructions if split.num_examples else ():
            path = os.fspath(own.filename)
            try:
                status = Path(path).stat()
            except OSError as error:
                missing.append(f"{shown(path)} ({error.strerror})")
                continue
            shard = Shard(
                filename=path,
                skip=own.skip,
                take=own.take,
                examples_in_shard=own.examples_in_shard,
                size=status.st_size,
                mtime=status.st_mtime_ns,
            )
            listed.setdefault(name, []).append(shard)
    if missing:
        raise DataError(
            f"{title} lacks {len(missing)} of its files: {first_of(missing)}; copy them there, or "
            "delete the dataset's folder and prepare it anew."
        )
    return listed


def _parts(sizes: Mapping[str, int]) -> tuple[Split, ...]:
    stops = np.cumsum(list(sizes.values())).tolist()
    return tuple(
        Split(name=name, start=stop - sizes[name], stop=stop) for name, stop in zip(sizes, stops)
    )


def _unlabelled(title: str, parts: Sequence[Split], labels: np.ndarray) -> list[str]:
    """The splits whose labels were never published, of which TFDS has -1."""
    known = {part.name: labels[part.start : part.stop] != -1 for part in parts}
    mixed = [name for name, own in known.items() if own.any() and not own.all()]
    if mixed or not any(own.any() for own in known.values()):
        raise DataError(
            f"{title}: {', '.join(mixed) or 'every split'} has examples without a label; choose "
            "another version of it, or a dataset whose examples all have one."
        )
    return [name for name, own in known.items() if not own.any()]


def _renamed(name: str, names: Collection[str]) -> str:
    return "val" if name == "validation" and "val" not in names else name


def _provenance(info: Any, chosen: str, left_out: Sequence[str]) -> dict[str, Any]:
    said = {
        "dataset": f"tfds:{info.full_name}",
        "homepage": info.homepage,
        "citation": " ".join((info.citation or "").split()),
        "licence": getattr(info.redistribution_info, "license", None),
        "stored as": chosen,
        "splits without labels, left out": list(left_out),
    }
    return {name: value for name, value in said.items() if value}


def _fingerprint(
    info: Any,
    features: Features,
    sizes: Mapping[str, int],
    labels: np.ndarray,
    checksums: np.ndarray,
) -> str:
    said = [info.full_name, dataclasses.asdict(features), dict(sizes)]
    total = hashlib.sha256(json.dumps(said).encode())
    total.update(np.ascontiguousarray(labels).astype(labels.dtype.newbyteorder("<")).data)
    total.update(checksums.astype("<u4").data)
    return total.hexdigest()
