"""Keras's own rounding: it computes BatchNorm and global pooling in float32 under float64 too.

Outside TensorFlow, Keras's `result_type("float64", "float32")` is float32, and both layers compute
in that (keras/src/layers/normalization/batch_normalization.py; measured on Keras 3.15.1 with jax).
Its float64 reference outputs carry that rounding, some 1e-7; to be compared within 1e-9, a network
must round where Keras rounds.

Two of the operations have no single right answer in float32: the reciprocal square root, which
processors approximate, and the order of a sum. `tests/data/parity/keras_rounding.npz` holds how
far the peer's results are from the correctly rounded ones, in units in the last place.
"""

from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from jtl.models.staged import StagedNet
from jtl.tree import flatten, unflatten
from tests import golden

DATA = golden.FOLDER / "keras_rounding.npz"


def apply_with_keras_rounding(
    name: str,
    model: StagedNet,
    variables: Any,
    images: np.ndarray,
    captured: Callable[[Any, str], bool],
) -> tuple[jax.Array, Any]:
    """Logits and captured outputs of a network in float64 that rounds where Keras does."""
    with np.load(DATA) as data:
        steps = iter(data[f"{name}/roots"])
        pooled_steps = data[f"{name}/pooled"]
    stats = with_roots(variables["batch_stats"], model.epsilon, steps)
    maps, state = run_stages({**variables, "batch_stats": stats}, model, images, captured)
    pooled = step_last_place(correct_means(maps), pooled_steps).astype("float64")
    return model.apply(variables, pooled, first="head", method="run_stages"), state


def run_stages(
    variables: Any, model: StagedNet, images: np.ndarray, captured: Callable[[Any, str], bool]
) -> Any:
    """The output of the last stage before the head, and what was captured on the way."""
    last = model.stages[-2]

    @jax.jit
    def run(variables: Any, images: Any) -> Any:
        return model.apply(
            variables,
            images,
            last=last,
            method="run_stages",
            capture_intermediates=captured,
            mutable=True,
        )

    with nn.intercept_methods(_intercept):
        return run(variables, images)


def with_roots(stats: Any, epsilon: float, steps: Iterator[np.int8]) -> Any:
    """The statistics with 1/sqrt(var + epsilon) beside each variance, as the peer rounded it."""
    leaves = flatten(stats)
    for path, var in list(leaves.items()):
        if path.endswith("/var"):
            own = np.array([next(steps) for _ in var])
            roots = step_last_place(correct_roots(var, epsilon), own)
            leaves[path.removesuffix("var") + "root"] = roots.astype(var.dtype)
    return unflatten(leaves)


def correct_roots(var: np.ndarray, epsilon: float) -> np.ndarray:
    """float32 1/sqrt(var + epsilon), rounded once."""
    shifted = var.astype("float32") + np.float32(epsilon)
    return (1 / np.sqrt(shifted.astype("float64"))).astype("float32")


def correct_means(maps: Any) -> np.ndarray:
    """float32 means over space of maps rounded to float32, rounded once."""
    rounded = np.asarray(maps).astype("float32").astype("float64")
    return rounded.mean((1, 2)).astype("float32")


def step_last_place(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Positive float32 numbers that many representable numbers further on."""
    return (values.view("int32") + steps.astype("int32")).view("float32")


def _intercept(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
        return _batch_norm(context.module, args[0])
    return proceed(*args, **kwargs)


def _batch_norm(module: nn.BatchNorm, x: jax.Array) -> jax.Array:
    """BatchNorm in Keras's order of operations, each rounded to float32.

    Every product and sum of two float32 numbers is rounded once from float64, which is exact;
    computing in float32 would let the compiler fuse them.
    """
    stats, params = module.variables["batch_stats"], module.variables["params"]
    factor = _round(stats["root"] * params["scale"]) if module.use_scale else stats["root"]
    shift = _round(_round(-stats["mean"] * factor) + params["bias"])
    broadcast = (1, 1, 1, -1)
    return _round(_round(_round(x) * factor.reshape(broadcast)) + shift.reshape(broadcast))


def _round(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=23)
