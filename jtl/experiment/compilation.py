"""Compiled programs kept on disk, so that a second start compiles nothing again."""

import jax

from jtl.weights.cache import cache_folder


def keep_compiled_programs() -> None:
    """Turns JAX's persistent compilation cache on, in jtl's cache folder.

    A cache that the user has chosen (`JAX_COMPILATION_CACHE_DIR`) is left as it is.
    """
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        # The default keeps only what took a second; a run has many programs that took less.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
