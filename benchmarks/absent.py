"""A chip that is not at hand: what its maker says of it, and what its compiler says of a step."""

import dataclasses
import importlib.util
import math
import os
import re
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

# To compile, no chip is looked for: neither by JAX nor in the machine's description of itself.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_WORKER_ID", "0")

import jax
import jax.numpy as jnp
import optax

import jtl
from benchmarks.contest.cell import CLASSES, Cell
from jtl.models.registry import create_model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """A kind of accelerator, with the makers' figures that predict a step's time.

    Attributes:
        name: of the chip.
        platform: JAX's name of its kind.
        compiler: the package with its compiler.
        topology: the smallest slice that is asked for, in the compiler's words.
        devices: chips of that slice, all of one host.
        bounds: how they lie on the host.
        flops_per_second: bfloat16 products of matrices.
        bytes_per_second: of its memory.
        memory_bytes: of its memory.
        link_bytes_per_second: what a chip sends over the links of a ring, both ways together.
        hop_seconds: from a chip to the next.
        source: of the figures.
    """

    name: str
    platform: str
    compiler: str
    topology: str
    devices: int
    bounds: tuple[int, int, int]
    flops_per_second: float
    bytes_per_second: float
    memory_bytes: float
    link_bytes_per_second: float
    hop_seconds: float
    source: str

    @property
    def missing(self) -> bool:
        """Whether its compiler is not installed."""
        return importlib.util.find_spec(self.compiler) is None

    def absent_devices(self) -> tuple[jax.Device, ...]:
        """The devices of the slice, which can be compiled for but run nothing."""
        from jax.experimental import topologies

        slice_ = topologies.get_topology_desc(
            platform=self.platform, topology_name=self.topology, chips_per_host_bounds=self.bounds
        )
        return tuple(slice_.devices)

    def step_seconds(self, flops: float, moved: float) -> dict[str, float]:
        """The least time of a step: by arithmetic, by memory, and the larger of the two."""
        arithmetic, memory = flops / self.flops_per_second, moved / self.bytes_per_second
        return {
            "matrix_seconds": arithmetic,
            "memory_seconds": memory,
            "seconds": max(arithmetic, memory),
            "seconds_one_after_the_other": arithmetic + memory,
        }

    def sum_seconds(self, sums: Sequence[int]) -> float:
        """The time of sums over all devices around a ring, each of so many bytes.

        A byte is sent `2 (n - 1) / n` times; each sum waits for half the ring, to and fro.
        """
        n = self.devices
        sent = 2 * (n - 1) / n * sum(sums)
        return sent / self.link_bytes_per_second + len(sums) * n * self.hop_seconds


TPU_V5E = Chip(
    name="TPU v5e",
    platform="tpu",
    compiler="libtpu",
    topology="v5e:2x4",
    devices=8,
    bounds=(2, 4, 1),
    flops_per_second=197e12,
    bytes_per_second=819e9,
    memory_bytes=16e9,
    # 400 GB/s both ways over 4 ports, of which a ring takes 2: 100 GB/s out, 100 in.
    link_bytes_per_second=100e9,
    hop_seconds=1e-6,
    source=(
        "https://docs.cloud.google.com/tpu/docs/v5e; a microsecond a hop: "
        "https://jax-ml.github.io/scaling-book"
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What a compiler says of one step of one device.

    Attributes:
        flops: floating-point operations.
        bytes: read and written.
        temporary_bytes: held between operations: the activations, and what else a step needs.
        peak_bytes: state, batch and temporaries; a new state lies where the old one did.
        sums: bytes of each sum over devices, several tensors in one counting once.
        trace_seconds: JAX's part of the making.
        compile_seconds: the compiler's.
    """

    flops: float
    bytes: float
    temporary_bytes: int
    peak_bytes: int
    sums: tuple[int, ...]
    trace_seconds: float
    compile_seconds: float


def ask(chip: Chip, cell: Cell, *, devices: int = 1, global_batch_norm: bool = True) -> Program:
    """Compiles jtl's step of a cell for a chip, and asks the compiler what it needs.

    Args:
        chip: that is absent.
        cell: the question; its batch is each device's.
        devices: under one `jit`, more under `pmap`.
        global_batch_norm: as in `make_train_step`.
    """
    chosen = chip.absent_devices()[:devices]
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
        compiled = lowered.compile()
        end = time.perf_counter()
    counts, memory = compiled.cost_analysis(), compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return Program(
        flops=counts["flops"],
        bytes=counts["bytes accessed"],
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=held + memory.temp_size_in_bytes,
        sums=sums_over_devices(compiled.as_text()),
        trace_seconds=traced - start,
        compile_seconds=end - traced,
    )


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


def sums_over_devices(text: str) -> tuple[int, ...]:
    """Bytes of each all-reduce of a compiled program, in the order of its text."""
    results = re.findall(r"= (.*?) all-reduce(?:-start)?\(", text)
    return tuple(sum(_bytes(*shape) for shape in _SHAPE.findall(result)) for result in results)


_SHAPE = re.compile(r"(bf16|[fsu]\d+|pred)\[([\d,]*)\]")


def _bytes(dtype: str, shape: str) -> int:
    width = 1 if dtype == "pred" else int(dtype.lstrip("bfsu")) // 8
    return width * math.prod(int(size) for size in shape.split(",") if size)
