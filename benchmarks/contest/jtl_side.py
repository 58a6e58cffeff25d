"""jtl's side of a training step: what `jtl train` compiles, on a batch that stays on the device."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jtl
from benchmarks.contest.cell import CLASSES, Cell
from benchmarks.contest.jtl_process import AGAIN
from benchmarks.contest.serve import peak_resident_bytes
from jtl.engine.boundary import find_boundary, make_tail_step
from jtl.models.registry import create_model


class JtlSide:
    """The compiled step and the state it goes on from."""

    def __init__(self, cell: Cell, variant: str) -> None:
        if variant == AGAIN:
            cell = dataclasses.replace(cell, remat=create_model(cell.network).chain[:-1])
        precision = "highest" if cell.precision == "float32" else "tensorfloat32"
        jax.config.update("jax_default_matmul_precision", precision)
        place = jtl.parallel.single()
        step, state = _step(cell)
        image, label = cell.arrays()
        self._batch = place.put_batch({"image": image, "label": label})
        self._state = place.put_state(state)
        self._flops = _operations(step, self._state, self._batch)
        self._step = place.compile(step).lower(self._state, self._batch).compile()

    def run(self, steps: int) -> None:
        """So many updates."""
        for _ in range(steps):
            self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready((self._state, metrics))

    def program(self) -> str:
        """The compiled step's text."""
        text: str = self._step.as_text()
        return text

    def facts(self) -> dict[str, Any]:
        """The compiler's counts, and the device's of its memory."""
        memory = self._step.memory_analysis()
        device = jax.devices()[0].memory_stats() or {}
        peak, by = device.get("peak_bytes_in_use"), "allocator"
        if peak is None:
            peak, by = peak_resident_bytes(), "process"
        return {
            "flops": self._flops,
            "bytes": (self._step.cost_analysis() or {}).get("bytes accessed"),
            "temporary_bytes": memory.temp_size_in_bytes,
            "peak_bytes": peak,
            "peak_by": by,
        }


def _operations(step: Any, *arguments: Any) -> float:
    """Of the program as it was written, for a CPU: a compiler's library calls are not counted."""
    here = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), arguments
    )
    flops: float = jax.jit(step).lower(*abstract).cost_analysis()["flops"]
    return flops


def _step(cell: Cell) -> tuple[Any, jtl.TrainState]:
    fields: dict[str, Any] = {"remat": cell.remat}
    if cell.precision == "bfloat16":
        fields["dtype"] = jnp.dtype(jnp.bfloat16)
    pretrained = jtl.load_model(cell.network, weights=None, num_classes=CLASSES, rng=0, **fields)
    variables = pretrained.variables
    labels = jtl.freeze_labels(variables["params"], cell.freeze, pretrained.model.stages)
    tx = jtl.partition_optimizer(optax.adamw(1e-3), labels)
    step = jtl.make_train_step(pretrained.model, tx, freeze=cell.freeze)
    state = jtl.TrainState.create(variables, tx, rng=0)
    if not cell.cached:
        return step, state
    boundary = find_boundary(step, labels, variables.get("batch_stats", {}))
    assert boundary is not None
    tail = make_tail_step(step, boundary, variables)
    return tail, tail.cut(state)
