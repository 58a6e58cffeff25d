"""BatchNorm and dropout of any Linen module, made global, keyed and frozen without editing it."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.engine.modes import Modes
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
    and is off where its stage is frozen.

    Args:
        context: the batch, and which modules hold still.
        handled: is filled with the paths of the BatchNorms seen, whose statistics are the same
            on every device already.
    """

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
            if context.global_batch_norm:
                handled.add("/".join(module.path))
            return _batch_norm(next_fun, args, kwargs, module, context)
        if isinstance(module, nn.Dropout):
            return _dropout(args, kwargs, module, context)
        return next_fun(*args, **kwargs)

    return nn.intercept_methods(intercept)


def _batch_norm(
    next_fun: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    module: nn.BatchNorm,
    context: BatchContext,
) -> jax.Array:
    stored = kwargs.get("use_running_average", module.use_running_average)
    kept = context.modes.keeps_statistics("/".join(module.path))
    with _attribute(module, "use_running_average", None):
        normalize = lambda: next_fun(*args, **{**kwargs, "use_running_average": True})  # noqa: E731
        if stored or kept:
            return normalize()
        old: dict[str, jax.Array] = {
            name: module.get_variable("batch_stats", name) for name in ("mean", "var")
        }
        new = _statistics(args[0], module, context)
        for name in old:
            module.put_variable("batch_stats", name, new[name])
        # Flax normalises with the batch's own statistics, and the running ones move after it.
        output = normalize()
        for name in old:
            running = module.momentum * old[name] + (1 - module.momentum) * new[name]
            module.put_variable("batch_stats", name, running.astype(old[name].dtype))
        return output


def _statistics(x: jax.Array, module: nn.BatchNorm, context: BatchContext) -> dict[str, jax.Array]:
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    axes = tuple(a for a in range(x.ndim) if a != module.axis % x.ndim)
    _check_leading(x, context, module, "BatchNorm")
    weight = context.mask.astype(dtype).reshape(-1, *[1] * (x.ndim - 1))
    places = x.size // (x.shape[0] * x.shape[module.axis])
    total = batch_sum(jnp.sum(weight), context.statistics_axis) * places
    total = jnp.maximum(total, 1)

    def mean(values: jax.Array) -> jax.Array:
        return batch_sum(jnp.sum(values * weight, axes), context.statistics_axis) / total

    wide = x.astype(dtype)
    center = mean(wide)
    if module.use_fast_variance:
        variance = jnp.maximum(mean(jnp.square(wide)) - jnp.square(center), 0)
    else:
        shape = [1] * x.ndim
        shape[module.axis] = x.shape[module.axis]
        variance = mean(jnp.square(wide - center.reshape(shape)))
    return {"mean": center, "var": variance}


def _dropout(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    module: nn.Dropout,
    context: BatchContext,
) -> jax.Array:
    x = args[0] if args else kwargs["inputs"]
    still = args[1] if len(args) > 1 else kwargs.get("deterministic", module.deterministic)
    if still or module.rate == 0 or not context.modes.drops("/".join(module.path)):
        return x
    _check_leading(x, context, module, "dropout")
    keep = 1.0 - module.rate
    if keep == 0:
        return jnp.zeros_like(x)
    rng = kwargs.get("rng")
    key = module.make_rng(module.rng_collection) if rng is None else rng
    shape = tuple(1 if axis in module.broadcast_dims else x.shape[axis] for axis in range(x.ndim))

    def draw(place: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(key, place), keep, shape[1:])

    mask = jnp.broadcast_to(jax.vmap(draw)(context.position), x.shape)
    return jnp.where(mask, x / keep, jnp.zeros_like(x))


def _check_leading(x: jax.Array, context: BatchContext, module: nn.Module, what: str) -> None:
    batch = context.position.shape[0]
    if x.ndim < 1 or x.shape[0] != batch:
        raise ConfigError(
            f"{what} at {'/'.join(module.path)!r} is given {list(x.shape)}, but its first axis "
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
