"""Compiled programs kept on disk, so that a second start compiles nothing again."""

import contextlib
import os
import time
import zlib
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from jtl.training.compilations import Compilations
from jtl.weights.cache import cache_folder

_CHECKED = "checked"  # a file whose time says since when entries have not been looked at
_YOUNG = 60 * 10**9  # nanoseconds in which an entry may still be being written
_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # what its frames begin with


def keep_compiled_programs() -> None:
    """Turns JAX's persistent compilation cache on, in jtl's cache folder.

    A cache that the user has chosen (`JAX_COMPILATION_CACHE_DIR`) is left as it is.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_folder() / "compiled"
        _remove_cut_off(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # The default keeps only what took a second; a run has many programs that took less.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def compile_to_keep(lowered: jax.stages.Lowered, platform: str) -> tuple[jax.stages.Compiled, bool]:
    """Compiles a program, and says whether it can be kept elsewhere than in JAX's cache.

    XLA cannot write a CPU's program a second time: one that was read comes out without its code.
    So for a CPU JAX's cache is not asked; for others, whose compilers take minutes, it is, and what
    it had is not to be written again.

    Args:
        lowered: the program.
        platform: of its devices.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    with Compilations() as compilations:
        if platform == "cpu":
            _use_cache(None)
        try:
            program = lowered.compile()
        finally:
            if platform == "cpu":
                _use_cache(folder)
    return program, not compilations.fetched


def _use_cache(folder: str | None) -> None:
    jax.config.update("jax_compilation_cache_dir", folder)
    compilation_cache.reset_cache()  # which JAX has open since its first program


def _remove_cut_off(folder: Path) -> None:
    """Removes entries that a killed process left half written.

    JAX never replaces an entry: it would warn of such a one, and compile, at every start to come.
    """
    mark, until = folder / _CHECKED, time.time_ns() - _YOUNG
    since = mark.stat().st_mtime_ns if mark.exists() else 0
    for path in folder.glob("*-cache"):
        # What cannot be read, or has gone meanwhile, is left to JAX, which warns of it.
        with contextlib.suppress(OSError):
            if since <= path.stat().st_mtime_ns < until and not _is_whole(path.read_bytes()):
                path.unlink(missing_ok=True)
    if folder.is_dir():
        with contextlib.suppress(OSError):
            mark.touch()
            os.utime(mark, ns=(until, until))


def _is_whole(entry: bytes) -> bool:
    if entry.startswith(_ZSTANDARD):
        return True  # JAX compresses so where the package is installed, which jtl does not ask for
    try:
        zlib.decompress(entry)
    except zlib.error:
        return False
    return True
