"""What a weight file says of itself: its classes, how images reach it, and its network's fields."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jtl.errors import WeightsError
from jtl.models.staged import StagedNet
from jtl.weights.preprocess import Preprocess, preprocess_from_timm, released_preprocess
from jtl.weights.readers import WeightFile

CLASSES_KEY = "jtl.classes"
PREPROCESS_KEY = "jtl.preprocess"
FIELDS_KEY = "jtl.fields"

# Fields that do not change what given weights compute in evaluation, or where they come from.
_FREE_FIELDS = (
    *("parent", "name", "num_classes", "dropout_rate", "drop_path_rate", "dtype", "param_dtype"),
    *("remat", "aux_head", "aux_weight"),
)

_LARGEST_CONFIG = 2**20


def file_classes(file: WeightFile, held: int | None) -> tuple[str, ...] | None:
    """The names of a file's classes, from its metadata; None where it does not say them.

    Args:
        file: what was read.
        held: the width of its head; None where it has none.

    Raises:
        WeightsError: the metadata is no list of as many names as the head has classes.
    """
    text = file.metadata.get(CLASSES_KEY)
    if text is None:
        return None
    names = _json(text, CLASSES_KEY, file.path)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise WeightsError(f"{file.path}: metadata {CLASSES_KEY!r} is no list of names.")
    if held is not None and len(names) != held:
        raise WeightsError(
            f"{file.path}: metadata {CLASSES_KEY!r} names {len(names)} classes, its head has "
            f"{held}; save the file again with the right names."
        )
    return tuple(names)


def file_preprocess(file: WeightFile) -> Preprocess | None:
    """The input record in a file's metadata; None where there is none.

    Raises:
        WeightsError: the record cannot be used.
    """
    text = file.metadata.get(PREPROCESS_KEY)
    if text is None:
        return None
    record = _json(text, PREPROCESS_KEY, file.path)
    if not isinstance(record, dict):
        raise WeightsError(f"{file.path}: metadata {PREPROCESS_KEY!r} is no record.")
    try:
        return Preprocess.from_dict(record)
    except WeightsError as error:
        raise WeightsError(f"{file.path}: metadata {PREPROCESS_KEY!r}: {error}") from error


def model_fields(model: StagedNet) -> dict[str, Any]:
    """The fields that decide what a network computes from given weights, as JSON has them."""
    names = (field.name for field in dataclasses.fields(model))
    return {name: _plain(getattr(model, name)) for name in names if name not in _FREE_FIELDS}


def field_differences(file: WeightFile, model: StagedNet) -> tuple[str, ...]:
    """One line for each field in which the network that a file was saved from is another.

    Raises:
        WeightsError: the metadata is no record of fields.
    """
    text = file.metadata.get(FIELDS_KEY)
    if text is None:
        return ()
    saved, own = _json(text, FIELDS_KEY, file.path), model_fields(model)
    if not isinstance(saved, dict):
        raise WeightsError(f"{file.path}: metadata {FIELDS_KEY!r} is no record.")
    # A field that is younger than the file had its default then.
    defaults = {field.name: _plain(field.default) for field in dataclasses.fields(model)}
    saved = {**{name: defaults[name] for name in own}, **saved}
    return tuple(
        f"{name}={own.get(name)!r}, and the file was saved with {saved[name]!r}"
        for name in sorted(saved)
        if saved[name] != own.get(name)
    )


def choose_preprocess(
    file: WeightFile,
    released: Mapping[str, Any] | None,
    *,
    layout: str,
    architecture: str,
    input_size: int,
) -> tuple[Preprocess, str]:
    """The input record of a file and, in words, who says so.

    The file's own metadata comes first, then what its publisher says, then a timm
    `config.json` in the same folder; else what the released weights of its layout take.

    Args:
        file: what was read.
        released: what the catalogue says of it; None where the file has no place there.
        layout: the key layout's name.
        architecture: the registry's name of the model.
        input_size: side of the images that the architecture was made for, pixels.

    Raises:
        WeightsError: a record is there and cannot be used.
    """
    own = file_preprocess(file)
    if own is not None:
        return own, "the file's metadata"
    if released is not None:
        return Preprocess.from_dict(released), "the catalogue"
    beside = _timm_config(file)
    if beside is not None:
        return preprocess_from_timm(beside), "config.json beside the file"
    record = released_preprocess(layout, architecture, input_size)
    return record, f"what is usual in the {layout} layout, as the file does not say"


def _timm_config(file: WeightFile) -> Mapping[str, Any] | None:
    beside = Path(file.path).with_name("config.json") if Path(file.path).is_file() else None
    if beside is None or not beside.is_file() or beside.stat().st_size > _LARGEST_CONFIG:
        return None
    config = _json(beside.read_text(encoding="utf-8", errors="replace"), "config", str(beside))
    known = isinstance(config, dict) and "pretrained_cfg" in config
    return config if known else None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _json(text: str, key: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{where}: {key!r} is no valid JSON ({error}).") from error
