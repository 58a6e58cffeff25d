"""Kinds of accelerator that are not at hand: what their makers say of them, and their devices."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

from benchmarks.reading import Sum

# A compiler is not to look for a chip, nor to ask a machine of the cloud what it is.
_ALONE = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """A kind of accelerator, with its maker's figures, which predict a step's time.

    Attributes:
        name: of the chip.
        platform: JAX's name of its kind.
        compiler: the package with its compiler.
        topology: what the compiler is told of a host with eight of them.
        options: for the compiler.
        flops_per_second: products of bfloat16 matrices.
        bytes_per_second: of its memory.
        memory_bytes: of its memory.
        link_bytes_per_second: what a chip of a host sends to others while it receives as much.
        sum_seconds: of the smallest sum over the eight.
        source: of the figures.
    """

    name: str
    platform: str
    compiler: str
    topology: Mapping[str, Any]
    options: Mapping[str, Any]
    flops_per_second: float
    bytes_per_second: float
    memory_bytes: float
    link_bytes_per_second: float
    sum_seconds: float
    source: str

    @property
    def missing(self) -> bool:
        """Whether its compiler is not installed."""
        return find_spec(self.compiler) is None

    def devices(self) -> tuple[jax.Device, ...]:
        """Those of a host: they can be compiled for, and run nothing."""
        from jax.experimental import topologies

        os.environ.update({name: own for name, own in _ALONE.items() if name not in os.environ})
        return tuple(topologies.get_topology_desc(platform=self.platform, **self.topology).devices)

    def step_seconds(self, flops: float, moved: float) -> dict[str, float]:
        """The least time of a step: by arithmetic, by memory, and the larger of the two."""
        arithmetic, memory = flops / self.flops_per_second, moved / self.bytes_per_second
        return {
            "matrix_seconds": arithmetic,
            "memory_seconds": memory,
            "seconds": max(arithmetic, memory),
            "seconds_one_after_the_other": arithmetic + memory,
        }

    def sums_seconds(self, sums: Sequence[Sum], devices: int) -> float:
        """The time of sums over devices that no other work fills, one after the other.

        Around a ring of n, a byte is sent `2 (n - 1) / n` times.
        """
        share = 2 * (devices - 1) / devices / self.link_bytes_per_second
        return sum(
            max(0.0, own.bytes * share + self.sum_seconds - own.meanwhile / self.bytes_per_second)
            for own in sums
        )


CHIPS = {
    "tpu-v5e": Chip(
        name="TPU v5e",
        platform="tpu",
        compiler="libtpu",
        topology={"topology_name": "v5e:2x4", "chips_per_host_bounds": (2, 4, 1)},
        options={},
        flops_per_second=197e12,
        bytes_per_second=819e9,
        memory_bytes=16e9,
        # 400 GB/s both ways over 4 ports, of which a ring through eight chips takes 2.
        link_bytes_per_second=100e9,
        # Half the ring to and fro, a microsecond a hop.
        sum_seconds=8e-6,
        source="docs.cloud.google.com/tpu/docs/v5e; a hop: jax-ml.github.io/scaling-book",
    ),
    "h100": Chip(
        name="NVIDIA H100 SXM",
        platform="cuda",
        compiler="jax_cuda12_plugin",
        topology={
            "topology_name": "h100",
            "topology": "1x1x8",
            "target_config": (Path(__file__).parent / "h100.txtpb").read_text("utf-8"),
        },
        options={"xla_gpu_autotune_level": 0},  # which would try on the chip what is faster
        flops_per_second=989e12,
        bytes_per_second=3.35e12,
        memory_bytes=80e9,
        # 900 GB/s both ways together.
        link_bytes_per_second=450e9,
        # A ring of eight over NVLink: 3.6 us and 14 steps of 0.47, as NCCL reckons.
        sum_seconds=10e-6,
        source="nvidia.com/en-us/data-center/h100; the smallest sum: NCCL's src/graph/tuning.cc",
    ),
}
