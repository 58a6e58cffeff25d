"""What the device can do at most, measured: products of matrices and copies of memory."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.contest.cell import Cell
from benchmarks.contest.serve import serve

_PRECISIONS = {"float32": "highest", "tf32": "tensorfloat32", "bfloat16": "default"}


class Ceilings:
    """The best of several turns, for the precision of a cell."""

    def __init__(self, cell: Cell, variant: str) -> None:
        on_cpu = jax.default_backend() == "cpu"
        side = 256 if variant == "smoke" else 2048 if on_cpu else 8192
        dtype = jnp.bfloat16 if cell.precision == "bfloat16" else jnp.float32
        matrix = jnp.ones((side, side), dtype)
        # Larger than any cache: what is read and written is in memory.
        row = jnp.ones((2**20 if variant == "smoke" else 2**26 if on_cpu else 2**29,), jnp.float32)
        precision = jax.lax.Precision.HIGHEST if cell.precision == "float32" else None

        def multiply(matrix: jax.Array) -> jax.Array:
            return jnp.matmul(matrix, matrix, precision=precision)

        with jax.default_matmul_precision(_PRECISIONS[cell.precision]):
            self._multiply = jax.jit(multiply).lower(matrix).compile()
        self._copy = jax.jit(jnp.negative).lower(row).compile()
        self._matrix, self._row = matrix, row
        self._matrix_seconds = self._copy_seconds = float("inf")

    def run(self, steps: int) -> None:
        """So many products and copies; the fastest of each is kept."""
        for _ in range(steps):
            self._matrix_seconds = min(self._matrix_seconds, _time(self._multiply, self._matrix))
            self._copy_seconds = min(self._copy_seconds, _time(self._copy, self._row))

    def facts(self) -> dict[str, Any]:
        """Operations and bytes a second."""
        return {
            "matrix_flops_per_second": 2 * self._matrix.shape[0] ** 3 / self._matrix_seconds,
            "copy_bytes_per_second": 2 * self._row.nbytes / self._copy_seconds,
        }


def _time(function: Callable[[jax.Array], jax.Array], argument: jax.Array) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(argument))
    return time.perf_counter() - start


if __name__ == "__main__":
    serve(Ceilings)
