"""Eight simulated devices, strict numerics, cheap compilation, and fixtures that tests share."""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version

# All of this is set before jax is imported, so that workers of xdist and commands in processes
# of their own run under the same settings.
_flags = [os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
# The networks here are tiny: what costs is compiling them, and a third of that is saved by not
# optimizing, two more by the older code generator (which jaxlib dropped between 0.10 and 0.12).
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if version("jaxlib").startswith("0.10."):
    _flags.append("--xla_cpu_use_fusion_emitters=false")
    # Eight devices may come to a collective far apart where few cores are shared by many.
    _flags.append("--xla_cpu_collective_call_terminate_timeout_seconds=600")
os.environ["XLA_FLAGS"] = " ".join(_flags).strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
if not {"JTL_CACHE", "JAX_COMPILATION_CACHE_DIR"} <= os.environ.keys():
    # For the whole session, so that no two processes trace or compile the same, and the user's own
    # caches stay as they are.
    _caches = tempfile.mkdtemp(prefix="jtl-tests-")
    atexit.register(shutil.rmtree, _caches, ignore_errors=True)
    os.environ.setdefault("JTL_CACHE", f"{_caches}/jtl")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{_caches}/compiled")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
# The first example of a property compiles what all others run.
hypothesis.settings.register_profile("compiling", deadline=None)
hypothesis.settings.load_profile("compiling")


@pytest.fixture
def x64():
    """Sixty-four-bit floats for the length of one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimized():
    """Programs compiled as outside of tests, where a test looks at what they cost."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
