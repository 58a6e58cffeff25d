"""BatchNorm and dropout of any Linen module, made global, keyed and frozen without editing it."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.engine.modes import Modes
from jtl.engine.numbers import is_zero
from jtl.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchContext:
    """What a module in training must know of the batch it sees a part of.

    Attributes:
        modes: which modules hold still.
        position: int `[batch]`, each example's place in the global batch.
        mask: bool `[batch]`, False for padding.
        axis_name: the mapped axis that the global batch is spread over, or None.
        global_batch_norm: whether BatchNorm in training looks beyond its device's part.
    """

    modes: Modes
    position: jax.Array
    mask: jax.Array
    axis_name: str | None
    global_batch_norm: bool = True

    @property
    def statistics_axis(self) -> str | None:
        """The mapped axis that BatchNorm's statistics are taken over, or None."""
        return self.axis_name if self.global_batch_norm else None


def batch_mean(tree: Any, axis_name: str | None) -> Any:
    """The mean over the devices of values that each device has in full."""
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)


def batch_sum(value: Any, axis_name: str | None) -> Any:
    """Adds up a per-device value over the devices; the value itself where there is one."""
    return value if axis_name is None else jax.lax.psum(value, axis_name)


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

    def batch_norm(
        next_fun: Callable[..., Any], module: nn.BatchNorm, call: dict[str, Any]
    ) -> jax.Array:
        if context.global_batch_norm:
            handled.add("/".join(module.path))
        return _batch_norm(next_fun, module, call, context)

    def dropout(module: nn.Dropout, call: dict[str, Any]) -> jax.Array:
        return _dropout(module, call, context)

    return nn.intercept_methods(_interceptor(batch_norm, dropout))


def intercept_evaluation() -> Any:
    """A context manager under which a Linen module's `apply` has no batch and no randomness.

    Raises:
        ConfigError: a BatchNorm insists on the batch's statistics, or a dropout on dropping.
    """

    def batch_norm(
        next_fun: Callable[..., Any], module: nn.BatchNorm, call: dict[str, Any]
    ) -> jax.Array:
        if _first(call.get("use_running_average"), module.use_running_average) is False:
            raise insists_on_batch("/".join(module.path))
        with _attribute(module, "use_running_average", None):
            return next_fun(**{**call, "use_running_average": True})

    def dropout(module: nn.Dropout, call: dict[str, Any]) -> jax.Array:
        still = _first(call.get("deterministic"), module.deterministic)
        if still is False and module.rate > 0:
            raise insists_on_dropping("/".join(module.path))
        return call["inputs"]

    return nn.intercept_methods(_interceptor(batch_norm, dropout))


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


def batch_statistics(
    x: jax.Array,
    context: BatchContext,
    *,
    axis: int,
    fast: bool,
    path: str,
    mask: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """Mean and variance, `[channel]`, over the unmasked examples of the global batch.

    Args:
        x: `[batch, ...]` with the channels at `axis`.
        context: the batch.
        axis: of the channels.
        fast: whether the variance is the mean square less the squared mean.
        path: the BatchNorm's own.
        mask: bool, broadcastable to `x`, False for places that the module itself leaves out.

    Raises:
        ConfigError: the first axis of `x` is not the batch.
    """
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    axes = tuple(a for a in range(x.ndim) if a != axis % x.ndim)
    _check_leading(x, context, path, "BatchNorm")
    weight = context.mask.astype(dtype).reshape(-1, *[1] * (x.ndim - 1))
    if mask is None:
        total = jnp.sum(weight) * (x.size // (x.shape[0] * x.shape[axis]))
    else:
        weight = jnp.where(jnp.broadcast_to(mask, x.shape), weight, 0)
        total = jnp.sum(weight, axes)
    total = jnp.maximum(batch_sum(total, context.statistics_axis), 1)

    def mean(values: jax.Array) -> jax.Array:
        return batch_sum(jnp.sum(values * weight, axes), context.statistics_axis) / total

    wide = x.astype(dtype)
    center = mean(wide)
    if fast:
        variance = jnp.maximum(mean(jnp.square(wide)) - jnp.square(center), 0)
    else:
        shape = [1] * x.ndim
        shape[axis] = x.shape[axis]
        variance = mean(jnp.square(wide - center.reshape(shape)))
    return {"mean": center, "var": variance}


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
    _check_leading(x, context, path, "dropout")
    keep = 1.0 - rate
    if is_zero(keep):
        return jnp.zeros_like(x)
    shared = {axis % x.ndim for axis in broadcast_dims}
    shape = tuple(1 if axis in shared else x.shape[axis] for axis in range(x.ndim))

    def draw(place: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, place), keep, shape[1:])

    mask = jnp.broadcast_to(jax.vmap(draw)(context.position), x.shape)
    return jnp.where(mask, x / jnp.asarray(keep, x.dtype), jnp.zeros_like(x))


def _interceptor(batch_norm: Callable[..., Any], dropout: Callable[..., Any]) -> Any:
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
        return next_fun(*args, **kwargs)

    return intercept


def _batch_norm(
    next_fun: Callable[..., Any],
    module: nn.BatchNorm,
    call: dict[str, Any],
    context: BatchContext,
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
    with _attribute(module, "use_running_average", None):
        normalize = lambda: next_fun(**{**call, "use_running_average": True})  # noqa: E731
        if asked or kept:
            return normalize()
        old: dict[str, jax.Array] = {
            name: module.get_variable("batch_stats", name) for name in ("mean", "var")
        }
        new = batch_statistics(
            call["x"],
            context,
            axis=module.axis,
            fast=module.use_fast_variance,
            path=path,
            mask=call.get("mask"),
        )
        for name in old:
            module.put_variable("batch_stats", name, new[name])
        # Flax normalises with the batch's own statistics, and the running ones move after it.
        output = normalize()
        for name in old:
            running = module.momentum * old[name] + (1 - module.momentum) * new[name]
            module.put_variable("batch_stats", name, running.astype(old[name].dtype))
        return output


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


def _check_leading(x: jax.Array, context: BatchContext, path: str, what: str) -> None:
    batch = context.position.shape[0]
    if x.ndim < 1 or x.shape[0] != batch:
        raise ConfigError(
            f"{what} at {path!r} is given {list(x.shape)}, but its first axis "
            f"must be the batch of {batch} examples: masks and statistics belong to examples."
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
