"""Whether a phase trains from a cache: where it is cut, how large that is, what it saves."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jtl.data.augment import AugmentOptions
from jtl.data.pipeline import TrainOrder
from jtl.engine.boundary import Boundary, find_boundary, make_extract_step, part_of
from jtl.engine.parallel import Placement
from jtl.engine.state import TrainState
from jtl.errors import ConfigError
from jtl.training.cache.options import CacheChoice, CacheLimits, Where
from jtl.training.phases import Phase

PLACES: tuple[Where, ...] = ("device", "host", "file")

# What a device computes while a byte comes from each place, in round figures: below that, to
# compute again is faster. Two CPU cores do 1e11 operations a second, copy 5e9 bytes and read
# 1e9 from a disk; an accelerator does 3e13 beside 1e12, 1e10 and 1e9 bytes.
_OPERATIONS_PER_BYTE: Mapping[str, Mapping[Where, float]] = {
    "cpu": {"device": 20, "host": 20, "file": 100},
    "accelerator": {"device": 30, "host": 3e3, "file": 3e4},
}
_LEAST_SHARE = 0.1  # of the forward; less is not worth the room


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is cached in a phase, and where.

    Attributes:
        boundary: where the network is cut.
        where: the rows are kept.
        views: of each training example.
        row: shape and dtype of one example's row.
        bytes: of all rows.
        share: fraction of the forward's operations that the rows stand for; None if unknown.
    """

    boundary: Boundary
    where: Where
    views: int
    row: jax.ShapeDtypeStruct
    bytes: int
    share: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a phase with a frozen leading part trains without a cache."""

    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demand:
    """What a cache is asked for, the same in all phases.

    Attributes:
        choice: where, or `auto` or `off`.
        limits: how large at each place.
        augment: how training images are varied.
        order: of training.
        val: examples of the validation split.
        image: shape and dtype of an image as it is read, `[height, width, 3]`.
        place: where steps run.
        folder: of the run.
    """

    choice: CacheChoice
    limits: CacheLimits
    augment: AugmentOptions
    order: TrainOrder
    val: int
    image: jax.ShapeDtypeStruct
    place: Placement
    folder: Path


def plan_cache(demand: Demand, phase: Phase, state: TrainState) -> Plan | Refusal | None:
    """What to cache in a phase.

    Args:
        demand: what is asked for.
        phase: of the run.
        state: that the phase begins or goes on with, whole.

    Returns:
        None where there is nothing to say: the cache is off, or no leading part is frozen.

    Raises:
        ConfigError: the place that was asked for has no room.
    """
    if demand.choice == "off":
        return None
    boundary = find_boundary(phase.step, phase.labels, state.batch_stats)
    if boundary is None:
        return None
    views = _views(demand)
    if isinstance(views, Refusal):
        return views
    # Rounded, because the last batch of an only epoch may hold some of what would be the next.
    if round(demand.order.epoch(phase.stop - phase.start)) <= views:
        return Refusal(reason=f"{'each view' if views > 1 else 'each image'} is seen only once")
    row, extracting = _row(demand, phase, boundary, state)
    tail = part_of(phase.step.forward, first=boundary.first)
    rest = boundary.rest(state.variables)
    classifying = _operations(jax.jit(tail.evaluate).lower(rest, _batch_of(row)))
    rows = len(np.unique(demand.order.indices)) * views + demand.val
    size = rows * int(np.prod(row.shape)) * row.dtype.itemsize
    share = extracting / (extracting + classifying) if extracting and classifying else None
    intensity = None if extracting is None else extracting * rows / max(size, 1)
    where = _where(demand, size, share, intensity)
    if isinstance(where, Refusal):
        return where
    return Plan(boundary=boundary, where=where, views=views, row=row, bytes=size, share=share)


def varies(options: AugmentOptions) -> bool:
    """Whether training images are varied at all."""
    # None of these does anything by itself.
    alone = ("views", "fill", "erase_area", "erase_ratio", "erase_fill")
    default = AugmentOptions()
    return dataclasses.replace(options, **{k: getattr(default, k) for k in alone}) != default


def _views(demand: Demand) -> int | Refusal:
    if jax.process_count() > 1:
        return Refusal(reason="several processes train together")
    if demand.augment.mixup or demand.augment.cutmix:
        return Refusal(reason="mixup and CutMix blend other images every epoch")
    if not varies(demand.augment):
        return 1
    if demand.order.views is None:
        return Refusal(reason="every epoch augments anew; augment.views=8 would draw eight views")
    return demand.order.views


def _row(
    demand: Demand, phase: Phase, boundary: Boundary, state: TrainState
) -> tuple[jax.ShapeDtypeStruct, float | None]:
    """One example's row, and the operations that it takes."""
    number = jax.ShapeDtypeStruct((1,), np.int32)
    batch = {"image": _batch_of(demand.image), "example": number, "view": number}
    step = make_extract_step(phase.step, boundary, state.rng)
    lowered = jax.jit(step).lower(boundary.held(state.variables), batch)
    out = lowered.out_info
    return jax.ShapeDtypeStruct(out.shape[1:], out.dtype), _operations(lowered)


def _batch_of(one: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *one.shape), one.dtype)


def _operations(lowered: Any) -> float | None:
    try:
        return float(lowered.cost_analysis()["flops"])
    except (NotImplementedError, RuntimeError, TypeError, KeyError):
        return None  # a device whose compiler does not count


def _where(
    demand: Demand, size: int, share: float | None, intensity: float | None
) -> Where | Refusal:
    limits = dataclasses.asdict(demand.limits)
    if demand.choice != "auto":
        chosen: Where = demand.choice  # type: ignore[assignment]
        if size > limits[chosen]:
            raise ConfigError(
                f"train.cache={chosen} would hold {size:,} bytes, but train.cache_limits.{chosen} "
                f"is {limits[chosen]:,}; raise it, or choose another place, auto or off."
            )
        return chosen
    if share is not None and share < _LEAST_SHARE:
        return Refusal(reason=f"what is frozen is only {share:.1%} of the forward")
    platform = "cpu" if demand.place.devices[0].platform == "cpu" else "accelerator"
    least = _OPERATIONS_PER_BYTE[platform]
    free = _free(demand)
    fitting = [where for where in PLACES if size <= min(limits[where], free[where])]
    for where in fitting:
        if intensity is None or intensity >= least[where]:
            return where
    if fitting:
        return Refusal(reason="what is frozen is computed faster than it is read")
    return Refusal(reason=f"{size:,} bytes fit nowhere; see train.cache_limits")


def _free(demand: Demand) -> dict[Where, float]:
    """Bytes that may be taken at each place: half of what is free now."""
    host = float("inf")
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2
    device = min(_device_memory(own, host, demand.place) for own in demand.place.devices)
    folder = next(own for own in (demand.folder, *demand.folder.parents) if own.exists())
    status = os.statvfs(folder)
    return {"device": device, "host": host, "file": status.f_bavail * status.f_frsize / 2}


def _device_memory(device: jax.Device, host: float, place: Placement) -> float:
    if device.platform == "cpu":
        return host / len(place.devices)  # all of them share main memory
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return float("inf")
    return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) / 2
