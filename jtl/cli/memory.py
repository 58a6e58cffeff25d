"""Memory that a process keeps between steps, where steps run on the CPU."""

import ctypes
import importlib.util
import os
import platform

# Of glibc's malloc.h, with what `mallopt` is told for each: no block that is the system's own, and
# nothing given back below 2 GiB at the end of the heap.
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1
_SETTINGS = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1))


def keep_memory() -> None:
    """Lets the C library keep what a step frees, for the next step.

    On a CPU, XLA takes the room for a step's intermediate results anew each time. By default glibc
    gives blocks that large back to the system, which then fills every page with zeros again.
    Nothing is done on machines with an accelerator, under another C library, or where the user has
    set up the allocator (`MALLOC_…`, `GLIBC_TUNABLES`).

    It has to come before the first thread does, and so before numpy and jax; `run_where_called`
    belongs to it.
    """
    if _is_ours():
        library = ctypes.CDLL(None)
        for option, value in _SETTINGS:
            library.mallopt(option, value)


def run_where_called() -> None:
    """Has programs on a CPU run in the thread that calls them, where `keep_memory` was at work.

    Only the heap of a process's first thread has no end: blocks of more than 64 MiB that another
    asks for are the system's own, whatever glibc is told. One heap for all threads would keep them
    as well, but compilers and steps would wait for each other's turn at it.

    It has to come before JAX looks for devices.
    """
    if _is_ours():
        import jax

        jax.config.update("jax_cpu_enable_async_dispatch", False)


def prepare_computing() -> None:
    """What a command does before it runs networks, but for training, which keeps more."""
    from jtl.experiment.compilation import keep_compiled_programs

    run_where_called()
    keep_compiled_programs()


def _is_ours() -> bool:
    """Whether the allocator is glibc's, is as it came, and serves steps."""
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    return not chosen and not _has_accelerator() and platform.libc_ver()[0] == "glibc"


def _has_accelerator() -> bool:
    """Whether jax could find one: its packages are installed, and it was not told otherwise."""
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return platforms != "cpu"
    return any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
