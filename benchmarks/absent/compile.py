"""What a compiler says of jtl's training step on a chip that is not at hand."""

import dataclasses
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jtl
from benchmarks.absent.chips import Chip
from benchmarks.contest.cell import CLASSES, Cell
from benchmarks.reading import Sum, library_calls, sums_over_devices
from jtl.models.registry import create_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What a compiler says of one step of one device.

    Attributes:
        flops: floating-point operations.
        bytes: read and written.
        temporary_bytes: held between operations: the activations, and what else a step needs.
        peak_bytes: state, batch and temporaries; a new state lies where the old one did.
        sums: over devices.
        trace_seconds: JAX's part of the making.
        compile_seconds: the compiler's.
    """

    flops: float
    bytes: float
    temporary_bytes: int
    peak_bytes: int
    sums: tuple[Sum, ...]
    trace_seconds: float
    compile_seconds: float


def ask(
    chip: Chip,
    cell: Cell,
    *,
    devices: int = 1,
    global_batch_norm: bool = True,
) -> Program:
    """Compiles jtl's step of a cell for a chip, and asks the compiler what it needs.

    Args:
        chip: that need not be there.
        cell: the question; its batch is each device's.
        devices: under one `jit`, more under `pmap`.
        global_batch_norm: as in `make_train_step`.
    """
    chosen = chip.devices()[:devices]
    step, state = _step(cell, global_batch_norm)
    shape = (cell.batch, cell.pixels, cell.pixels, 3)
    batch = {
        "image": jax.ShapeDtypeStruct(shape, jnp.float32),
        "label": jax.ShapeDtypeStruct(shape[:1], jnp.int32),
    }
    # What is chosen by the kind of device is chosen for this one.
    with jax.default_device(chosen[0]):
        start = time.perf_counter()
        lowered = _lower(step, state, batch, chosen)
        traced = time.perf_counter()
        compiled = lowered.compile(compiler_options=dict(chip.options))
        end = time.perf_counter()
    flops, moved = _counts(compiled)
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(
        flops=flops,
        bytes=moved,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=held + memory.temp_size_in_bytes,
        sums=sums_over_devices(compiled.as_text()),
        trace_seconds=traced - start,
        compile_seconds=end - traced,
    )


def _counts(compiled: Any) -> tuple[float, float]:
    """Operations, and bytes read and written."""
    counts = compiled.cost_analysis()
    if counts is not None:
        return counts["flops"], counts["bytes accessed"]
    # Of a GPU that is not there JAX gives no count, and has no public name for what makes one.
    from jax._src.lib import _jax

    (module,) = compiled.runtime_executable().hlo_modules()
    counts = _jax.hlo_module_cost_analysis(jax.devices("cpu")[0].client, module)
    flops, moved = library_calls(compiled.as_text())
    return counts["flops"] + flops, counts["bytes accessed"] + moved


def _step(cell: Cell, global_batch_norm: bool) -> tuple[Any, Any]:
    """The step, and the shapes of its state."""
    model = create_model(
        cell.network, num_classes=CLASSES, dtype=jnp.dtype(cell.precision), remat=cell.remat
    )
    images = jax.ShapeDtypeStruct((1, cell.pixels, cell.pixels, 3), jnp.float32)
    variables = {"batch_stats": {}, **jax.eval_shape(model.init, jax.random.key(0), images)}
    labels = jtl.freeze_labels(variables["params"], cell.freeze, model.stages)
    tx = jtl.partition_optimizer(optax.adamw(1e-3), labels)
    step = jtl.make_train_step(model, tx, freeze=cell.freeze, global_batch_norm=global_batch_norm)
    create = partial(jtl.TrainState.create, tx=tx, rng=0)
    return step, jax.eval_shape(create, variables)


def _lower(step: Any, state: Any, batch: Any, devices: tuple[jax.Device, ...]) -> Any:
    if len(devices) == 1:
        place = jtl.parallel.single(devices[0])
        here = jax.sharding.SingleDeviceSharding(devices[0])
        laid = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), (state, batch)
        )
        return place.compile(step).lower(*laid)
    parts = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((len(devices), *leaf.shape), leaf.dtype), batch
    )
    return jtl.parallel.pmap(devices).compile(step).lower(state, parts)
