"""Keras's own rounding: it computes BatchNorm and global pooling in float32 under float64 too.

Outside TensorFlow, Keras's `result_type("float64", "float32")` is float32, and both layers compute
in that (keras/src/layers/normalization/batch_normalization.py; measured on Keras 3.15.1 with jax).
Its float64 reference outputs carry that rounding, some 1e-7; to be compared within 1e-9, a network
must round where Keras rounds.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# Of the float32 reciprocal square roots below on the machine that made the fixtures. Processors
# approximate them differently in the last bit.
RSQRT_DIGEST = "a64418a55d9031f6"


def machine_rounds_as_the_peer() -> bool:
    """Whether float32 reciprocal square roots here have the bits of the fixtures' machine."""
    roots = np.asarray(jax.lax.rsqrt(np.linspace(0.5, 1.5, 4096, dtype=np.float32)))
    return hashlib.sha256(roots.tobytes()).hexdigest()[:16] == RSQRT_DIGEST


@contextlib.contextmanager
def keras_rounding() -> Iterator[None]:
    """Within, networks applied in float64 round where Keras does."""
    with nn.intercept_methods(_intercept):
        yield


def _intercept(proceed: Any, args: Any, kwargs: Any, context: Any) -> Any:
    if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
        return _batch_norm(context.module, args[0])
    if context.method_name == "_pool" and args[0].ndim == 4:
        return jnp.mean(args[0].astype(jnp.float32), axis=(1, 2)).astype(args[0].dtype)
    return proceed(*args, **kwargs)


def _batch_norm(module: nn.BatchNorm, x: jax.Array) -> jax.Array:
    """BatchNorm in Keras's order of operations, each rounded to float32.

    Every product and sum of two float32 numbers is rounded once from float64, which is exact;
    computing in float32 would let the compiler fuse them.
    """
    stats = module.variables["batch_stats"]
    inverse = jax.lax.rsqrt((stats["var"] + module.epsilon).astype(jnp.float32)).astype(x.dtype)
    if module.use_scale:
        inverse = _round(inverse * module.variables["params"]["scale"])
    shift = _round(_round(-stats["mean"] * inverse) + module.variables["params"]["bias"])
    broadcast = (1, 1, 1, -1)
    return _round(_round(_round(x) * inverse.reshape(broadcast)) + shift.reshape(broadcast))


def _round(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=23)
