"""A process that trains on a CPU keeps the memory of a step for the next."""

import os
import platform
import subprocess
import sys

import pytest

PAGES = """
{prepare}
import resource
import jax, jax.numpy as jnp

@jax.jit
@jax.grad
def step(kernel, images):
    dimensions = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
    return jnp.sum(jnp.sin(x))

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(kernel, images).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kernel, images = jnp.ones((3, 3, 3, 64)), jnp.ones((8, 128, 128, 3))
assert step.lower(kernel, images).compile().memory_analysis().temp_size_in_bytes > 2**25
print(min(pages() for _ in range(20)))
"""
glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="glibc alone has these settings"
)
KEEP = "from jtl.cli.memory import keep_memory, run_where_called; keep_memory(); run_where_called()"


def pages_taken(prepare, **environment):
    """How many pages a step takes from the system, in the best of twenty.

    What its convolution gives is larger than any block that glibc keeps by itself (32 MiB).
    """
    others = ("MALLOC_", "GLIBC_", "LD_PRELOAD", "XLA_FLAGS")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    finished = subprocess.run(
        [sys.executable, "-c", PAGES.format(prepare=prepare)],
        env={**kept, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(finished.stdout)


@glibc
def test_a_step_takes_no_memory_anew():
    assert pages_taken(KEEP) * 10 < pages_taken("")


@pytest.mark.slow
@glibc
def test_an_allocator_that_the_user_set_up_is_left_alone():
    assert pages_taken(KEEP, MALLOC_PERTURB_="0") * 2 > pages_taken("")
