"""A run as StableHLO: one file for CPU, CUDA and TPU, which plain jax runs."""

from pathlib import Path

import jax
import numpy as np

from jtl.errors import ConfigError
from jtl.experiment.run import Run
from jtl.export.function import make_function

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(run: Run, path: Path) -> None:
    """Serialises a run's function of any number of images.

    Raises:
        ConfigError: flatbuffers is not installed.
    """
    try:
        import flatbuffers  # noqa: F401
    except ImportError as error:
        raise ConfigError("StableHLO takes flatbuffers: pip install 'jtl[export]'.") from error
    from jax import export

    size = run.preprocess.input_size
    shape = export.symbolic_shape(f"batch, {size}, {size}, 3")
    images = jax.ShapeDtypeStruct(shape, np.uint8)
    function = jax.jit(make_function(run))
    path.write_bytes(export.export(function, platforms=PLATFORMS)(images).serialize())


def run_stablehlo(path: Path, images: np.ndarray) -> np.ndarray:
    """What a file of StableHLO says of images."""
    from jax import export

    exported = export.deserialize(bytearray(path.read_bytes()))
    return np.asarray(exported.call(images))
