"""BatchNorm and dropout of any Linen module, made global, keyed and frozen without editing it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.engine.batch import BatchContext, check_leading
from jtl.engine.folding import Folding, parameters, result_dtype, stored_statistics
from jtl.engine.normalization import batch_statistics, normalize
from jtl.engine.numbers import is_zero
from jtl.errors import ConfigError


def intercept_training(context: BatchContext, handled: set[str]) -> Any:
    """A context manager under which a Linen module's `apply` trains by jtl's rules.

    BatchNorm takes its statistics over the unmasked examples of the global batch, or the
    stored ones where it is frozen; dropout draws one mask per example, keyed by its position,
    and is off where its stage is frozen. A mode that a module gives at the call is kept.

    Args:
        context: the batch, and which modules hold still.
        handled: is filled with the paths of the BatchNorms seen, whose statistics are the same
            on every device already.

    Raises:
        ConfigError: a module's constructor fixes a mode that is not the one to train in.
    """
    folding = Folding()

    def batch_norm(
        next_fun: Callable[..., Any], module: nn.BatchNorm, call: dict[str, Any]
    ) -> jax.Array:
        if context.global_batch_norm:
            handled.add("/".join(module.path))
        return _batch_norm(next_fun, module, call, context, folding)

    def dropout(module: nn.Dropout, call: dict[str, Any]) -> jax.Array:
        return _dropout(module, call, context)

    return nn.intercept_methods(_interceptor(batch_norm, dropout, folding))


def intercept_evaluation() -> Any:
    """A context manager under which a Linen module's `apply` has no batch and no randomness.

    Raises:
        ConfigError: a BatchNorm insists on the batch's statistics, or a dropout on dropping.
    """
    folding = Folding()

    def batch_norm(
        next_fun: Callable[..., Any], module: nn.BatchNorm, call: dict[str, Any]
    ) -> jax.Array:
        if _first(call.get("use_running_average"), module.use_running_average) is False:
            raise insists_on_batch("/".join(module.path))
        return _by_stored_statistics(next_fun, module, call, folding)

    def dropout(module: nn.Dropout, call: dict[str, Any]) -> jax.Array:
        still = _first(call.get("deterministic"), module.deterministic)
        if still is False and module.rate > 0:
            raise insists_on_dropping("/".join(module.path))
        return call["inputs"]

    return nn.intercept_methods(_interceptor(batch_norm, dropout, folding))


def insists_on_batch(path: str) -> ConfigError:
    """The error of a BatchNorm that would take a batch's statistics in evaluation."""
    return ConfigError(
        f"BatchNorm at {path!r} is fixed to use_running_average=False, but evaluation uses stored "
        "statistics; give it use_running_average=not train."
    )


def insists_on_dropping(path: str) -> ConfigError:
    """The error of a dropout that would drop in evaluation."""
    return ConfigError(
        f"dropout at {path!r} is fixed to deterministic=False, but evaluation drops nothing; give "
        "it deterministic=not train."
    )


def drop(
    x: jax.Array,
    key: jax.Array,
    context: BatchContext,
    *,
    rate: float,
    broadcast_dims: Sequence[int],
    path: str,
) -> jax.Array:
    """Drops with one mask per example, keyed by its position; what is kept is scaled up.

    Args:
        x: `[batch, ...]`.
        key: the same on every device.
        context: the batch.
        rate: the share that is dropped, in (0, 1].
        broadcast_dims: axes that share one draw.
        path: the dropout's own.

    Raises:
        ConfigError: the first axis of `x` is not the batch.
    """
    check_leading(x, context, path, "dropout")
    keep = 1.0 - rate
    if is_zero(keep):
        return jnp.zeros_like(x)
    shared = {axis % x.ndim for axis in broadcast_dims}
    shape = tuple(1 if axis in shared else x.shape[axis] for axis in range(x.ndim))

    def draw(place: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, place), keep, shape[1:])

    mask = jnp.broadcast_to(jax.vmap(draw)(context.position), x.shape)
    return jnp.where(mask, x / jnp.asarray(keep, x.dtype), jnp.zeros_like(x))


def _interceptor(
    batch_norm: Callable[..., Any], dropout: Callable[..., Any], folding: Folding
) -> Any:
    def intercept(
        next_fun: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        call: nn.module.InterceptorContext,
    ) -> Any:
        module = call.module
        if call.method_name != "__call__":
            return next_fun(*args, **kwargs)
        if isinstance(module, nn.BatchNorm):
            named = dict(zip(("x", "use_running_average"), args))
            return batch_norm(next_fun, module, {**named, **kwargs})
        if isinstance(module, nn.MultiHeadDotProductAttention):
            _check_attention(module, kwargs)
        if isinstance(module, nn.Dropout):
            named = dict(zip(("inputs", "deterministic", "rng"), args))
            return dropout(module, {**named, **kwargs})
        output = next_fun(*args, **kwargs)
        if args:
            folding.remember(module, args[0], output)
        return output

    return intercept


def _batch_norm(
    next_fun: Callable[..., Any],
    module: nn.BatchNorm,
    call: dict[str, Any],
    context: BatchContext,
    folding: Folding,
) -> jax.Array:
    path = "/".join(module.path)
    mode = context.modes.batch_norm_mode(path)
    kept = context.modes.keeps_statistics(path)
    asked = call.get("use_running_average")
    if asked is None and module.use_running_average and not kept:
        raise ConfigError(
            f"BatchNorm at {path!r} is fixed to use_running_average=True, but it is to train with "
            f"the batch's statistics; give it use_running_average=not train, or set its mode with "
            f"batch_norm={{{path!r}: {'affine' if mode == 'train' else 'frozen'!r}}}."
        )
    if asked or kept:
        # Behind a BatchNorm whose scale is trained, folding would cost a convolution's gradient.
        return _by_stored_statistics(
            next_fun, module, call, folding if mode == "frozen" else Folding()
        )
    x = call["x"]
    old: dict[str, jax.Array] = {
        name: module.get_variable("batch_stats", name) for name in ("mean", "var")
    }
    new = batch_statistics(
        x,
        context,
        axis=module.axis,
        fast=module.use_fast_variance,
        path=path,
        around=old["mean"],
        mask=call.get("mask"),
    )
    if type(module) is nn.BatchNorm:
        output = _normalized(module, x, new)
    else:
        # A class of the user's own is called, with the batch's statistics as the stored ones.
        for name, value in new.items():
            module.put_variable("batch_stats", name, value)
        output = _by_stored_statistics(next_fun, module, call, Folding())
    for name, value in new.items():
        running = module.momentum * old[name] + (1 - module.momentum) * value
        module.put_variable("batch_stats", name, running.astype(old[name].dtype))
    return output


def _by_stored_statistics(
    next_fun: Callable[..., Any], module: nn.BatchNorm, call: dict[str, Any], folding: Folding
) -> jax.Array:
    folded = folding.fold(module, call["x"])
    if folded is not None:
        return folded
    if type(module) is nn.BatchNorm:
        return _normalized(module, call["x"], stored_statistics(module))
    with _attribute(module, "use_running_average", None):
        output: jax.Array = next_fun(**{**call, "use_running_average": True})
        return output


def _normalized(module: nn.BatchNorm, x: jax.Array, statistics: dict[str, jax.Array]) -> jax.Array:
    # What Flax's own call computes; that one draws its parameters anew to compare their shapes,
    # which is most of what tracing a frozen network would take.
    return normalize(
        x,
        statistics,
        epsilon=float(module.epsilon),
        axis=module.axis,
        dtype=result_dtype(module, x),
        **parameters(module),
    )


def _dropout(module: nn.Dropout, call: dict[str, Any], context: BatchContext) -> jax.Array:
    x, path = call["inputs"], "/".join(module.path)
    asked = call.get("deterministic")
    if asked or is_zero(module.rate) or not context.modes.drops(path):
        return x
    if asked is None and module.deterministic:
        raise ConfigError(
            f"dropout at {path!r} is fixed to deterministic=True, but it is to drop in training; "
            "give it deterministic=not train, or rate 0."
        )
    rng = call.get("rng")
    key = module.make_rng(module.rng_collection) if rng is None else rng
    dims = module.broadcast_dims
    return drop(x, key, context, rate=module.rate, broadcast_dims=dims, path=path)


def _first(at_call: bool | None, fixed: bool | None) -> bool | None:
    return fixed if at_call is None else at_call


def _check_attention(module: nn.MultiHeadDotProductAttention, kwargs: dict[str, Any]) -> None:
    still = kwargs.get("deterministic", module.deterministic)
    if module.dropout_rate > 0 and not still:
        raise ConfigError(
            f"attention at {'/'.join(module.path)!r} drops with one mask for a device's whole "
            "batch, which differs with the devices; set its dropout_rate to 0, and put an "
            "nn.Dropout behind it."
        )


@contextmanager
def _attribute(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    # A module may fix the mode at construction, and Flax refuses to hear it twice.
    before = getattr(module, name)
    object.__setattr__(module, name, value)
    try:
        yield
    finally:
        object.__setattr__(module, name, before)
