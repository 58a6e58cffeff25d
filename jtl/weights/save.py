"""Saving: a model's variables as safetensors, in our layout or in that of another library."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

import jax
import numpy as np

from jtl.errors import ConfigError, WeightsError
from jtl.models.staged import StagedNet
from jtl.tree import flatten, nearest
from jtl.weights.layouts.identify import LAYOUTS
from jtl.weights.layouts.layout import source_shape
from jtl.weights.layouts.shapes import variable_shapes
from jtl.weights.layouts.transform import SAME, Entry
from jtl.weights.ledger import is_real_float
from jtl.weights.metadata import CLASSES_KEY, FIELDS_KEY, PREPROCESS_KEY, model_fields
from jtl.weights.preprocess import Preprocess

SaveLayout = Literal["jtl", "torchvision", "timm"]

_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}


def save_weights(
    path: str | os.PathLike[str],
    model: StagedNet,
    variables: Mapping[str, Any],
    *,
    layout: SaveLayout = "jtl",
    classes: Sequence[str] | None = None,
    preprocess: Preprocess | None = None,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes a model's variables as a safetensors file, whole or not at all.

    Args:
        path: where to; its name ends in `.safetensors`.
        model: whose variables they are.
        variables: `{"params": ..., "batch_stats": ...}`, values as they shall be stored.
        layout: `jtl` for `load_model`; `torchvision` or `timm` for their `load_state_dict` with
            `strict=True`. Every layout can be loaded by `load_model`.
        classes: the names of the classes, in the order of the logits.
        preprocess: how images must reach the model.
        metadata: further text by name; names that begin with `jtl.` are ours.
        overwrite: whether a file of that name is replaced.

    Returns:
        The path of the file.

    Raises:
        ConfigError: the arguments contradict each other or the model.
        WeightsError: the variables are not the model's, the layout has no place for them, its
            own library would compute something else, or the file cannot be written.
    """
    path = Path(path)
    _check_path(path, overwrite)
    leaves = flatten(dict(variables))
    entries = _table(model, layout, leaves)
    notes = _metadata(model, layout, classes, preprocess, metadata or {})
    counters = [] if layout == "jtl" else _counters(entries)
    leaves = {**leaves, **{entry.destination: np.zeros((), np.int64) for entry in counters}}
    try:
        with _replacing(path) as file:
            _write(file, [*entries, *counters], leaves, notes)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written: {error.strerror or error}.") from error
    return path


def _check_path(path: Path, overwrite: bool) -> None:
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"{path}: weights are saved as safetensors; let the name end in .safetensors."
        )
    if not path.parent.is_dir():
        raise WeightsError(f"{path}: there is no folder {path.parent}; make it first.")
    if path.exists() and not overwrite:
        raise WeightsError(f"{path} exists; choose another name, or set overwrite=True.")


def _table(model: StagedNet, layout: str, leaves: Mapping[str, Any]) -> tuple[Entry, ...]:
    """The key table of a model, once the leaves are known to be the model's."""
    if layout not in get_args(SaveLayout):
        close = nearest(layout, get_args(SaveLayout), 1)
        hint = f"did you mean {close[0]!r}?" if close else ""
        known = ", ".join(get_args(SaveLayout))
        raise ConfigError(f"layout={layout!r} cannot be saved; there is {known}. {hint}".strip())
    if differences := _differences(model, layout):
        raise WeightsError(
            f"{layout} would compute something else with these weights: "
            f"{'; '.join(differences)}. Save them with layout='jtl'."
        )
    expected = variable_shapes(model)
    entries = LAYOUTS[layout].entries(model, {path: x.shape for path, x in expected.items()})
    problems = [f"{path}: missing" for path in expected.keys() - leaves.keys()]
    problems += [f"{path}: not of this model" for path in leaves.keys() - expected.keys()]
    for path in expected.keys() & leaves.keys():
        own, given = tuple(expected[path].shape), tuple(np.shape(leaves[path]))
        if own != given:
            problems.append(f"{path}: has shape {list(given)}, the model's is {list(own)}")
        elif not is_real_float(leaves[path].dtype):
            problems.append(f"{path}: is {leaves[path].dtype}, which no weights are")
    if problems:
        raise WeightsError(
            f"the variables are not those of this {type(model).__name__}, in {len(problems)} "
            "places; nothing was saved:\n  " + "\n  ".join(sorted(problems))
        )
    return entries


def _differences(model: StagedNet, layout: str) -> tuple[str, ...]:
    # Our own layout promises nothing of another library's code; the file says the fields.
    return () if layout == "jtl" else LAYOUTS[layout].differences(model)


def _counters(entries: Sequence[Entry]) -> list[Entry]:
    """Torch's count of the batches that a BatchNorm has seen: one a running variance, 0."""
    return [
        Entry(
            source=entry.source.removesuffix("running_var") + "num_batches_tracked",
            destination=entry.destination + "/count",
            transform=SAME,
        )
        for entry in entries
        if entry.source.endswith(".running_var")
    ]


def _metadata(
    model: StagedNet,
    layout: str,
    classes: Sequence[str] | None,
    preprocess: Preprocess | None,
    further: Mapping[str, str],
) -> dict[str, str]:
    wrong = [k for k, v in further.items() if not isinstance(v, str) or k.startswith("jtl.")]
    if wrong:
        raise ConfigError(f"metadata {wrong}: give text, under names that do not begin with jtl.")
    if classes is not None and len(classes) != model.num_classes:
        raise ConfigError(f"{len(classes)} classes are named; the model has {model.num_classes}.")
    notes = dict(further)
    if layout != "jtl":
        # Some loaders of torch files insist on this word.
        notes.setdefault("format", "pt")
    notes["jtl.layout"] = layout
    notes[FIELDS_KEY] = json.dumps(model_fields(model))
    if classes is not None:
        notes[CLASSES_KEY] = json.dumps(list(classes), ensure_ascii=False)
    if preprocess is not None:
        notes[PREPROCESS_KEY] = json.dumps(preprocess.to_dict())
    return notes


def _write(
    file: BinaryIO, entries: Sequence[Entry], leaves: Mapping[str, Any], notes: Mapping[str, str]
) -> None:
    """The safetensors format: a length, a JSON header, then the tensors without gaps."""
    # Wide elements first, so that every tensor begins at a multiple of its element's size.
    order = sorted(entries, key=lambda e: (-leaves[e.destination].dtype.itemsize, e.source))
    header: dict[str, Any] = {"__metadata__": dict(notes)}
    place = 0
    for entry in order:
        leaf = leaves[entry.destination]
        shape = source_shape(entry, tuple(leaf.shape))
        end = place + int(np.prod(shape, dtype=np.int64)) * leaf.dtype.itemsize
        header[entry.source] = {
            "dtype": _DTYPES[leaf.dtype.name],
            "shape": list(shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for entry in order:
        # One tensor at a time is brought to the host and turned round.
        array = entry.transform.inverse(np.asarray(jax.device_get(leaves[entry.destination])))
        little = array.dtype.newbyteorder("<") if array.dtype.kind in "fi" else array.dtype
        file.write(np.ascontiguousarray(array, little).reshape(-1).view(np.uint8).data)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the path's name only once all of it is on the disk."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with draft.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # The new name itself must survive a power cut, too.
        os.fsync(folder)
    finally:
        os.close(folder)
