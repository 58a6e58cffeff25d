"""Random values: of a whole model, or of its class layers alone."""

import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jtl.errors import ConfigError
from jtl.models.staged import StagedNet
from jtl.platforms import on_cpu
from jtl.rng import base_key, stream_key
from jtl.weights.head import class_leaves
from jtl.weights.ledger import ShapeDtype


def init_key(rng: int | jax.Array | None, what: str) -> jax.Array:
    """The key that new parameters are drawn from.

    Args:
        rng: a seed or a key of the user's.
        what: what needs it, for the message.

    Raises:
        ConfigError: there is none.
    """
    if rng is None:
        raise ConfigError(f"{what} must be drawn at random: pass rng=, a seed or a jax.random key.")
    return stream_key(base_key(rng), "init", 0)


def draw_variables(model: StagedNet, key: jax.Array) -> dict[str, Any]:
    """Every variable of a model at random, as plain dicts of jax arrays."""
    size = model.example_size
    # Under jit only the draws are computed: the forward pass is dead code there.
    return _compiled_once(lambda key: model.init(key, jnp.zeros((1, size, size, 3))))(key)


def draw_class_leaves(
    model: StagedNet, shapes: Mapping[str, ShapeDtype], key: jax.Array
) -> dict[str, np.ndarray]:
    """New values for `class_leaves`, by slash path, from the layers' own initialisers.

    Only those layers run: nothing else of the model is drawn or computed.

    Args:
        model: with the number of classes to come.
        shapes: the model's leaves.
        key: a typed key; each layer's is derived from it and the layer's path.
    """
    paths = class_leaves(shapes)
    drawn = {}
    for path, (layer, inputs) in _class_layers(model, paths).items():
        layer_key = jax.random.fold_in(key, zlib.crc32(path.encode()))
        init = functools.partial(layer.init, inputs=jnp.zeros(inputs.shape, inputs.dtype))
        for name, leaf in _compiled_once(init)(layer_key)["params"].items():
            drawn[f"params/{path}/{name}"] = np.asarray(leaf)
    return drawn


def _class_layers(
    model: StagedNet, paths: Sequence[str]
) -> dict[str, tuple[nn.Dense, jax.ShapeDtypeStruct]]:
    """The dense layers that own the leaves, unbound, each with the shape of its input."""
    wanted = {path.partition("/")[2].rpartition("/")[0] for path in paths}
    found: dict[str, tuple[nn.Dense, jax.ShapeDtypeStruct]] = {}

    def record(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        path = "/".join(context.module.path)
        if path in wanted and context.method_name == "__call__":
            layer = context.module.clone(parent=None, name=None)
            found[path] = (layer, jax.ShapeDtypeStruct(args[0].shape, args[0].dtype))
        return call(*args, **kwargs)

    key = jax.random.key(0)
    with nn.intercept_methods(record):
        if wanted == {"head"}:
            features = jax.ShapeDtypeStruct((1, model.feature_width), jnp.float32)
            jax.eval_shape(
                lambda x: model.init(key, x, "head", "head", method="run_stages"), features
            )
        else:
            # Another head hangs onto the middle of the network: all of it must be traced.
            size = model.example_size
            images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
            jax.eval_shape(lambda x: model.init(key, x), images)
    return found


def _compiled_once(function: Callable[[jax.Array], Any]) -> Callable[[jax.Array], Any]:
    """A jitted function that runs a single time, so that compiling is what takes time.

    On a CPU the compiler needs seconds for each shape that is drawn, and a quarter of that
    without optimisations.
    """
    quick = {"xla_backend_optimization_level": 0} if on_cpu() else None
    return jax.jit(function, compiler_options=quick)
