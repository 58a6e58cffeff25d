"""NNX modules as the step sees them: split, merged and re-keyed functionally, never changed."""

import dataclasses
import inspect
import types
import zlib
from collections.abc import Callable, Hashable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import canonicalize_dtype

from jtl.engine.batch import BatchContext, batch_mean
from jtl.engine.interception import drop, insists_on_batch, insists_on_dropping
from jtl.engine.normalization import batch_statistics, normalize
from jtl.errors import ConfigError
from jtl.rng import stream_key
from jtl.tree import flatten, map_with_path, unflatten

Variables = dict[str, Any]

# A variable's kind, and the collection that a training state keeps it in.
_COLLECTIONS = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
# What a call may set: kept, derived anew, or for inspection. Parameters are here because a part
# under nnx.jit or nnx.remat sets them all, to what they were.
_KNOWN = (nnx.Param, nnx.BatchStat, nnx.RngState, nnx.Intermediate)


def nnx_variables(module: nnx.Module) -> Variables:
    """The arrays of an NNX module in the form that `TrainState.create` takes.

    Args:
        module: any NNX module; it is not changed.

    Returns:
        `{"params": ..., "batch_stats": ...}` as nested dicts of arrays, named by attributes
        and, inside lists, by index: `blocks/0/conv/kernel`.
    """
    found = {name: _variables(module, kind) for name, kind in _COLLECTIONS.items()}
    return {
        name: unflatten({path: own.get_value() for path, own in variables.items()})
        for name, variables in found.items()
    }


def nnx_module(module: nnx.Module, variables: Mapping[str, Any]) -> nnx.Module:
    """A copy of an NNX module that holds other parameters and statistics.

    Args:
        module: gives the structure; it is not changed.
        variables: in the form of `nnx_variables`, such as `state.variables` after training.

    Raises:
        ConfigError: the variables are not those of such a module.
    """
    copy = nnx.clone(module)
    _fill(copy, variables)
    return copy


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class NNXForward:
    """An NNX module, unedited: copies of it train and evaluate by jtl's rules.

    In each copy BatchNorm and dropout are of classes of ours, with the guarantees that Linen
    modules get, and every stream of random keys starts from the step and the stream's path.

    Attributes:
        definition: the structure of the module.
        template: its variables, of which parameters and statistics are replaced.
        stages: the module's own order of stages, if it states one.
    """

    definition: Any
    template: Any
    stages: tuple[str, ...] | None

    @classmethod
    def of(cls, module: nnx.Module) -> "NNXForward":
        """The forward of a module as it is now; later changes of the module are not seen."""
        parts: Any = nnx.split(module, tuple(_COLLECTIONS.values()), ...)
        definition, weights, rest = parts
        # Shapes alone: the arrays are the state's to keep.
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), weights)
        template = nnx.merge_state(shapes, jax.tree.map(jnp.array, rest))
        return cls(definition=definition, template=template, stages=getattr(module, "stages", None))

    def train(
        self,
        variables: Variables,
        images: jax.Array,
        rng: jax.Array,
        step: jax.Array,
        context: BatchContext,
    ) -> tuple[jax.Array, Any]:
        """Logits `[batch, classes]` and the new statistics."""
        module = self._copy(variables)
        module.train()
        norms = _convert(module, context)
        handled = norms if context.global_batch_norm else set()
        _give_keys(module, stream_key(rng, "dropout", step))
        logits = _call(module, images, True)
        stored = _variables(module, nnx.BatchStat)

        def everywhere(path: str, before: jax.Array) -> jax.Array:
            after = stored[path].get_value()
            if after is before or path.rpartition("/")[0] in handled:
                return after
            return batch_mean(after, context.axis_name)

        return logits, map_with_path(everywhere, variables["batch_stats"])

    def evaluate(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Logits `[batch, classes]` with stored statistics and no randomness."""
        module = self._copy(variables)
        module.eval()
        _convert(module, None)
        return _call(module, images, False)

    def _copy(self, variables: Variables) -> nnx.Module:
        merged: Any = nnx.merge(self.definition, self.template, copy=True)
        module: nnx.Module = merged
        _fill(module, variables)
        return module


def _convert(module: nnx.Module, context: BatchContext | None) -> set[str]:
    """Gives the BatchNorms and dropouts of a copy our calls; the paths of the BatchNorms."""
    norms = set()
    for path, node in list(nnx.iter_graph(module)):
        if not isinstance(node, nnx.BatchNorm | nnx.Dropout):
            continue
        if isinstance(node, nnx.BatchNorm):
            norms.add(_joined(path))
        elif node.rngs is None:
            node.rngs = nnx.RngStream(0, tag="dropout")
        setattr(node, _PLACE, _Place(path=_joined(path), context=context))
        object.__setattr__(node, "__class__", _extended(type(node)))
    return norms


_PLACE = "_jtl_place"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Place:
    """Where a module stands and the batch it sees, None in evaluation; equal to itself alone."""

    path: str
    context: BatchContext | None


@lru_cache(maxsize=256)
def _extended(kind: Hashable) -> type:
    # A subclass, because the rest of the module may read every attribute; without slots, because
    # Python gives an object another class only where both lie in memory alike.
    assert isinstance(kind, type)
    make = _batch_norm_call if issubclass(kind, nnx.BatchNorm) else _dropout_call
    body = {"__slots__": (), "__call__": make(kind.__call__)}
    return types.new_class(kind.__name__, (kind,), exec_body=lambda own: own.update(body))


def _batch_norm_call(original: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The call of a BatchNorm: global and masked statistics, or the stored ones where frozen."""

    def call(
        norm: Any, x: jax.Array, use_running_average: bool | None = None, **options: Any
    ) -> jax.Array:
        place: _Place = getattr(norm, _PLACE)
        if place.context is None:
            if use_running_average is False:
                raise insists_on_batch(place.path)
            return original(norm, x, True)
        if use_running_average or place.context.modes.keeps_statistics(place.path):
            return original(norm, x, True)
        new = batch_statistics(
            x,
            place.context,
            axis=norm.axis,
            fast=norm.use_fast_variance,
            path=place.path,
            around=norm.mean.get_value(),
            mask=options.get("mask"),
        )
        for name, value in new.items():
            old = getattr(norm, name).get_value()
            running = norm.momentum * old + (1 - norm.momentum) * value
            running = jax.lax.stop_gradient(running.astype(old.dtype))
            getattr(norm, name).set_value(running)
        scale, bias = (None if own is None else own.get_value() for own in (norm.scale, norm.bias))
        given = [value for value in (scale, bias) if value is not None]
        return normalize(
            x,
            new,
            scale=scale,
            bias=bias,
            epsilon=norm.epsilon,
            axis=norm.axis,
            dtype=canonicalize_dtype(x, *given, dtype=norm.dtype),
        )

    return call


def _dropout_call(_: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The call of a dropout: masks keyed by each example's position."""

    def call(
        dropout: Any, inputs: jax.Array, *, deterministic: bool | None = None, rngs: Any = None
    ) -> jax.Array:
        place: _Place = getattr(dropout, _PLACE)
        if place.context is None:
            if deterministic is False and dropout.rate > 0:
                raise insists_on_dropping(place.path)
            return inputs
        if deterministic or dropout.rate == 0 or not place.context.modes.drops(place.path):
            return inputs
        source = dropout.rngs if rngs is None else rngs
        if isinstance(source, nnx.Rngs):
            source = source[dropout.rng_collection]
        return drop(
            inputs,
            source() if isinstance(source, nnx.RngStream) else source,
            place.context,
            rate=dropout.rate,
            broadcast_dims=dropout.broadcast_dims,
            path=place.path,
        )

    return call


def _give_keys(module: nnx.Module, key: jax.Array) -> None:
    # Every stream by its own path: reseeding by name would give two dropouts the same masks.
    for path, stream in nnx.iter_graph(module):
        if isinstance(stream, nnx.RngStream):
            own = jax.random.fold_in(key, zlib.crc32(_joined(path).encode()))
            shape = stream.key.get_value().shape
            stream.key.set_value(jax.random.split(own, shape) if shape else own)
            stream.count.set_value(jnp.zeros(shape, jnp.uint32))


def _call(module: nnx.Module, images: jax.Array, train: bool) -> Any:
    call: Any = module
    before = _variables(module, nnx.Not(nnx.Any(*_KNOWN)))
    values = {path: variable.get_value() for path, variable in before.items()}
    mode = {"train": train} if "train" in inspect.signature(call).parameters else {}
    logits = call(images, **mode)
    changed = [path for path, value in values.items() if before[path].get_value() is not value]
    if changed:
        raise ConfigError(
            f"the call of the NNX module sets {', '.join(changed)}; a training state keeps what is "
            "set in nnx.BatchStat variables alone: make it one, or a plain array if it is constant."
        )
    return logits


def _fill(module: nnx.Module, variables: Mapping[str, Any]) -> None:
    for collection, kind in _COLLECTIONS.items():
        own, given = _variables(module, kind), flatten(variables.get(collection, {}))
        if problems := _mismatches(own, given):
            raise ConfigError(
                f"these {collection} are not the NNX module's: {'; '.join(problems)}. Take them "
                "from jtl.nnx_variables of a module built alike."
            )
        for path, variable in own.items():
            variable.set_value(given[path])


def _mismatches(own: Mapping[str, nnx.Variable], given: Mapping[str, Any]) -> list[str]:
    shapes = {path: tuple(variable.get_value().shape) for path, variable in own.items()}
    problems = [f"{path!r} is missing" for path in own.keys() - given.keys()]
    problems += [f"{path!r} is not in the module" for path in given.keys() - own.keys()]
    problems += [
        f"{path!r} is {list(given[path].shape)} where the module has {list(shapes[path])}"
        for path in own.keys() & given.keys()
        if tuple(given[path].shape) != shapes[path]
    ]
    return sorted(problems)


def _variables(module: nnx.Module, kind: Any) -> dict[str, nnx.Variable]:
    """The module's own variables of a kind, live, by slash path."""
    matches = nnx.filterlib.to_predicate(kind)
    return {
        _joined(path): node
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.Variable) and matches(path, node)
    }


def _joined(path: tuple[Any, ...]) -> str:
    return "/".join(str(part) for part in path)
