"""A process that trains on a CPU keeps the memory of a step for the next."""

import os
import subprocess
import sys

import pytest

PAGES = """
{prepare}
import resource
import jax, jax.numpy as jnp

@jax.jit
def step(x):
    return jnp.sum(jax.lax.optimization_barrier(jnp.outer(x, x)))

x = jnp.arange(4500.0)
for _ in range(10):
    step(x).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEEP = "from jtl.cli.memory import keep_memory; keep_memory()"


def pages_taken(prepare, **environment):
    """How many pages three steps, which need 80 MB each, take from the system."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_"))}
    finished = subprocess.run(
        [sys.executable, "-c", PAGES.format(prepare=prepare)],
        env={**kept, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(finished.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has these settings")
def test_a_step_takes_no_memory_anew():
    assert pages_taken(KEEP) * 10 < pages_taken("")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc alone has these settings")
def test_an_allocator_that_the_user_set_up_is_left_alone():
    assert pages_taken(KEEP, MALLOC_PERTURB_="0") * 2 > pages_taken("")
