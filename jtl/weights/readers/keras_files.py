"""Reads Keras files: the released and whole-model `.h5`, `.weights.h5` and `.keras`."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jtl.errors import WeightsError
from jtl.weights.readers.archive import open_archive
from jtl.weights.readers.keras_names import (
    check_layers,
    infer_variables,
    join_names,
    layer_name,
    layers_by_path,
    variable_name,
)
from jtl.weights.readers.mapped import map_file
from jtl.weights.readers.weight_file import WeightFile

if TYPE_CHECKING:
    from jtl.weights.readers.hdf5 import Hdf5Content

WEIGHTS_MEMBER = "model.weights.h5"
_NUMBERED = re.compile(r"(?:(?P<owner>.*)/)?vars/(?P<index>\d{1,4})")
_NOT_LAYERS = ("optimizer", "compile_metrics", "_loss_tracker")


def read_keras_h5(path: Path) -> WeightFile:
    """The variables of an HDF5 file that Keras wrote, named `layer/variable`.

    Raises:
        WeightsError: the file is damaged, reaches outside itself or holds a Lambda layer.
    """
    content = _read_hdf5(str(path), map_file(path))
    root = content.attributes.get("", {})
    config = _parse_config(str(path), root.get("model_config"))
    tensors, notes = _named(str(path), content, config)
    return WeightFile(
        path=str(path),
        format="keras-h5",
        tensors=tensors,
        metadata=_describe({**root, **content.attributes.get("model_weights", {})}, config),
        notes=notes,
    )


def _read_hdf5(where: str, data: np.ndarray) -> "Hdf5Content":
    from jtl.weights.readers.hdf5 import read_hdf5  # h5py is imported where it is needed

    return read_hdf5(where, data)


def read_keras_zip(path: Path) -> WeightFile:
    """The variables of a `.keras` file, named by the layers of its configuration.

    Raises:
        WeightsError: the file is damaged, reaches outside itself or holds a Lambda layer.
    """
    archive = open_archive(path)
    if WEIGHTS_MEMBER not in archive.members:
        raise WeightsError(
            f"{path}: holds no {WEIGHTS_MEMBER}, only {', '.join(list(archive.members)[:8])}; "
            "save it again with model.save('name.keras')."
        )
    texts = {
        name: archive.read(name).tobytes()
        for name in ("config.json", "metadata.json")
        if name in archive.members
    }
    config = _parse_config(str(path), texts.get("config.json"))
    version = _parse_config(str(path), texts.get("metadata.json"))
    content = _read_hdf5(f"{path}: {WEIGHTS_MEMBER}", archive.read(WEIGHTS_MEMBER))
    tensors, notes = _named(str(path), content, config)
    return WeightFile(
        path=str(path),
        format="keras",
        tensors=tensors,
        metadata=_describe(version if isinstance(version, Mapping) else {}, config),
        notes=notes,
    )


def _named(
    where: str, content: "Hdf5Content", config: Any
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    root = "model_weights/" if "model_weights" in content.attributes else ""
    if _text_list(content.attributes.get(root.rstrip("/"), {}), "layer_names"):
        paths, notes = _legacy_paths(where, content, root)
    elif any(_NUMBERED.fullmatch(path) for path in content.arrays):
        paths, notes = _numbered_paths(content, config)
    else:
        raise WeightsError(
            f"{where}: is an HDF5 file but not one of Keras, which lists layer_names or keeps "
            "numbered vars; save it with model.save_weights('name.weights.h5')."
        )
    tensors, submodels = join_names(where, paths)
    return tensors, (*notes, *submodels)


def _legacy_paths(
    where: str, content: "Hdf5Content", root: str
) -> tuple[dict[tuple[str, ...], np.ndarray], tuple[str, ...]]:
    """The layout of Keras 1 and 2: each layer's group lists the names of its weights."""
    found: dict[tuple[str, ...], np.ndarray] = {}
    layers = _text_list(content.attributes[root.rstrip("/")], "layer_names")
    for layer in (*layers, "top_level_model_weights"):
        names = _text_list(content.attributes.get(root + layer, {}), "weight_names")
        scopes = {name.rpartition("/")[0] for name in names}
        for name in names:
            place = f"{root}{layer}/{name}"
            if place not in content.arrays:
                raise WeightsError(
                    f"{where}: lists the weight {name!r} of layer {layer!r} but does not hold "
                    "it; fetch or save the file again."
                )
            path = (*layer_name(layer, name, scopes), variable_name(name))
            if path in found:
                path = (layer, *name.split(":", 1)[0].split("/"))
            found[path] = content.arrays[place]
    aside = "optimizer_weights" in content.attributes
    return found, ("left aside 'optimizer_weights'",) if aside else ()


def _numbered_paths(
    content: "Hdf5Content", config: Any
) -> tuple[dict[tuple[str, ...], np.ndarray], tuple[str, ...]]:
    """The layout of Keras 3: `layers/<class>_<rank>/vars/<number>`, often with the layer's name."""
    options = layers_by_path(config)
    owners, aside = _owners(content)
    places = {place: index for index, place in enumerate(options)}
    found: dict[tuple[str, ...], np.ndarray] = {}
    unnamed, guessed = 0, 0
    for owner in sorted(owners, key=lambda owner: (places.get(owner, 0), _rank_key(owner))):
        names = _owner_names(content, options, owner)
        unnamed += names is None
        arrays = [owners[owner][index] for index in sorted(owners[owner])]
        kind = re.sub(r"_\d+$", "", owner.rsplit("/", 1)[-1])
        variables = infer_variables([a.shape for a in arrays], kind, options.get(owner))
        guessed += owner not in options and "normalization" in kind and len(arrays) == 3
        for variable, array in zip(variables, arrays):
            found[(*(names or _places(owner)), variable)] = array
    notes = [f"left aside {name!r}" for name in aside[:20]]
    if unnamed:
        notes.append(f"{unnamed} layers bear no name: they are named by class and rank")
    if guessed:
        notes.append(f"took {guessed} normalisations of three variables for ones without scale")
    return found, tuple(notes)


def _owners(content: "Hdf5Content") -> tuple[dict[str, dict[int, np.ndarray]], list[str]]:
    """The numbered variables of each layer's place, and the places that are no layers."""
    owners: dict[str, dict[int, np.ndarray]] = {}
    aside: set[str] = set()
    for path, array in content.arrays.items():
        match = _NUMBERED.fullmatch(path)
        owner = (match["owner"] or "") if match else ""
        if match is None or owner.startswith(_NOT_LAYERS) or "seed_generator" in owner:
            aside.add(path.split("/vars/")[0])
        else:
            owners.setdefault(owner, {})[int(match["index"])] = array
    return owners, sorted(aside)


def _rank_key(owner: str) -> list[tuple[str, int]]:
    """Sorts `conv2d_2` before `conv2d_10`."""
    parts = [re.fullmatch(r"(.*?)(?:_(\d{1,9}))?", part) for part in owner.split("/")]
    return [(part[1], int(part[2] or 0)) for part in parts if part]


def _owner_names(
    content: "Hdf5Content", options: Mapping[str, Mapping[str, Any]], owner: str
) -> tuple[str, ...] | None:
    """The names of the models and the layer that own a variable; None if the file has none."""
    names = []
    parts = owner.split("/")
    for end in range(2, len(parts) + 1, 2):
        place = "/".join(parts[:end])
        written = content.attributes.get(f"{place}/vars", {}).get("name")
        configured = options.get(place, {}).get("name")
        name = configured if isinstance(configured, str) else written
        if not isinstance(name, str):
            return None
        names.append(name)
    return tuple(names) or None


def _places(owner: str) -> tuple[str, ...]:
    return tuple(part for part in owner.split("/") if part != "layers") or ("model",)


def _text_list(attributes: Mapping[str, Any], name: str) -> list[str]:
    """A list of names; Keras splits one too long for HDF5 as `name0`, `name1`, …."""
    if name in attributes:
        value = attributes[name]
        return value if isinstance(value, list) else [value]
    pieces: list[str] = []
    for index in range(len(attributes)):
        pieces += attributes.get(f"{name}{index}", [])
    return pieces


def _parse_config(where: str, text: Any) -> Any:
    """A JSON configuration, None where the file has none."""
    if text is None:
        return None
    try:
        config = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(
            f"{where}: its configuration is not valid JSON ({error}); fetch or save it again."
        ) from error
    check_layers(where, config)
    return config


def _describe(attributes: Mapping[str, Any], config: Any) -> dict[str, str]:
    """The Keras version, and the model's layers in order as JSON `[[class, name], …]`."""
    described = {
        name: str(attributes[name]) for name in ("keras_version", "backend") if name in attributes
    }
    options = config.get("config") if isinstance(config, Mapping) else None
    if isinstance(options, Mapping):
        layers = options.get("layers")
        described["model"] = str(options.get("name"))
        described["layers"] = json.dumps(
            [
                [layer.get("class_name"), layer.get("config", {}).get("name")]
                for layer in (layers if isinstance(layers, list) else [])
                if isinstance(layer, Mapping) and isinstance(layer.get("config"), Mapping)
            ]
        )
    return described
