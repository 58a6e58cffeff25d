"""Names of Keras variables as `layer/variable`, whichever way the file spells them."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.errors import WeightsError

_KNOWN = frozenset({"kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"})
# Keras 1 wrote `block1_conv1_W_1:0`; what it called running_std already held the variance.
_KERAS_1 = {
    "W": "kernel",
    "b": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
}
_KERAS_1_NAME = re.compile(r"(?:.*_)?(W|b|gamma|beta|running_mean|running_std)(?:_\d+)?")
_DEEPEST = 32


def variable_name(spelled: str) -> str:
    """A variable's own name out of a weight name: `conv1/kernel:0` gives `kernel`."""
    last = spelled.rsplit("/", 1)[-1].split(":", 1)[0]
    match = None if last in _KNOWN else _KERAS_1_NAME.fullmatch(last)
    return _KERAS_1[match[1]] if match else last


def layer_name(group: str, spelled: str, scopes: set[str]) -> tuple[str, ...]:
    """The layer that a weight belongs to, as a path of models and layer.

    Args:
        group: the top-level layer whose group holds the weight.
        spelled: the weight's name, such as `conv1/kernel:0`.
        scopes: the scopes of all weights in that group.
    """
    scope = spelled.rpartition("/")[0].rsplit("/", 1)[-1]
    # One scope that repeats the group's name, or a numbered copy of it, is the layer itself; a
    # submodel's group holds weights under its layers' own names.
    if not scope or (len(scopes) == 1 and re.fullmatch(rf"{re.escape(group)}(_\d+)?", scope)):
        return (group,)
    return (group, scope)


def infer_variables(
    shapes: Sequence[tuple[int, ...]], kind: str, config: Mapping[str, Any] | None = None
) -> list[str]:
    """The names of a layer's numbered variables by their order and shapes.

    Args:
        shapes: of variables 0, 1, …
        kind: the layer's class in snake case, such as `batch_normalization`.
        config: the layer's options, which tell a normalisation without scale from one without
            centre; without them it is taken to lack the scale, as Inception's does.
    """
    if all(len(shape) == 1 for shape in shapes) and ("normalization" in kind or len(shapes) == 4):
        options = config or {"scale": len(shapes) != 3, "center": True}
        names = ["gamma"] * bool(options.get("scale", True))
        names += ["beta"] * bool(options.get("center", True))
        names += ["moving_mean", "moving_variance"] * (len(shapes) - len(names) == 2)
    else:
        names = ["kernel", "bias"][: len(shapes)] if shapes and len(shapes[0]) > 1 else []
    return names if len(names) == len(shapes) else [str(index) for index in range(len(shapes))]


def join_names(
    where: str, tensors: Mapping[tuple[str, ...], np.ndarray]
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Tensors by `layer/variable`, or by the whole path through submodels where that is taken.

    Raises:
        WeightsError: two tensors have the same whole path.
    """
    short = Counter(path[-2:] for path in tensors)
    joined: dict[str, np.ndarray] = {}
    for path, tensor in tensors.items():
        name = "/".join(path[-2:] if short[path[-2:]] == 1 else path)
        if name in joined:
            raise WeightsError(f"{where}: two variables are named {name!r}; save it again.")
        joined[name] = tensor
    models = sorted({"/".join(path[:-2]) for path in tensors if len(path) > 2})
    notes = tuple(f"opened the submodel {model!r}" for model in models)
    return joined, notes


def check_layers(where: str, config: Any) -> None:
    """Stops a model that holds Python code: a Lambda layer's, or a bare serialised function.

    Raises:
        WeightsError: the configuration has a Lambda layer anywhere, or is nested too deeply.
    """
    waiting: list[tuple[int, Any]] = [(0, config)]
    while waiting:
        depth, node = waiting.pop()
        if depth > 4 * _DEEPEST:
            raise WeightsError(f"{where}: its model configuration is nested too deeply.")
        if isinstance(node, Mapping):
            if node.get("class_name") in ("Lambda", "__lambda__"):
                options = node.get("config")
                name = options.get("name") if isinstance(options, Mapping) else None
                raise WeightsError(
                    f"{where}: its layer {name or 'without a name'!r} is a Lambda, which carries "
                    "Python code; none of it was run. Save the weights alone with "
                    "model.save_weights('name.weights.h5')."
                )
            waiting += [(depth + 1, value) for value in node.values()]
        elif isinstance(node, list):
            waiting += [(depth + 1, value) for value in node]


def layers_by_path(config: Any) -> dict[str, Mapping[str, Any]]:
    """Each layer's options by its place in a Keras 3 weights file, such as `layers/conv2d_1`.

    Keras names the place by the layer's class and its rank among layers of that class.
    """
    found: dict[str, Mapping[str, Any]] = {}

    def walk(model: Any, prefix: str, depth: int) -> None:
        options = model.get("config") if isinstance(model, Mapping) else None
        layers = options.get("layers") if isinstance(options, Mapping) else None
        if not isinstance(layers, list) or depth > _DEEPEST:
            return
        ranks: Counter[str] = Counter()
        for layer in layers:
            kind = snake_case(str(layer.get("class_name"))) if isinstance(layer, Mapping) else ""
            place = f"{prefix}layers/{kind}" + (f"_{ranks[kind]}" if ranks[kind] else "")
            ranks[kind] += 1
            if isinstance(layer, Mapping) and isinstance(layer.get("config"), Mapping):
                found[place] = layer["config"]
            walk(layer, f"{place}/", depth + 1)

    walk(config, "", 0)
    return found


def snake_case(name: str) -> str:
    """A class name as Keras spells it in paths: `BatchNormalization` → `batch_normalization`."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
