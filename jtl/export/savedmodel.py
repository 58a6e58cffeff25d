"""A run as a SavedModel of TensorFlow, by jax's own converter."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from jtl.errors import ConfigError
from jtl.experiment.run import Run
from jtl.export.function import make_function
from jtl.export.stablehlo import PLATFORMS


def write_savedmodel(run: Run, path: Path) -> None:
    """Writes a folder whose signature takes any number of `images` and gives `probabilities`.

    Raises:
        ConfigError: TensorFlow is not installed, or this jax has no converter.
    """
    tf, jax2tf = _libraries()
    size = run.preprocess.input_size
    converted = jax2tf.convert(
        make_function(run),
        polymorphic_shapes=[f"(batch, {size}, {size}, 3)"],
        native_serialization_platforms=PLATFORMS,
        with_gradient=False,
    )
    images = tf.TensorSpec((None, size, size, 3), tf.uint8, name="images")

    def serve(images: Any) -> dict[str, Any]:
        return {"probabilities": converted(images)}

    module = tf.Module()
    module.serve = tf.function(serve, autograph=False, input_signature=[images])
    signature = module.serve.get_concrete_function()
    tf.saved_model.save(module, str(path), signatures={"serving_default": signature})


def run_savedmodel(path: Path, images: np.ndarray) -> np.ndarray:
    """What a SavedModel says of images."""
    tf, _ = _libraries()
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    return np.asarray(serve(images=tf.constant(images))["probabilities"])


def _libraries() -> tuple[Any, Any]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # or it tells what it is compiled for
    try:
        import tensorflow as tf
        from jax.experimental import jax2tf
    except ImportError as error:
        raise ConfigError(
            f"A SavedModel takes TensorFlow and jax's converter ({error}): pip install 'jtl[tf]'."
        ) from error
    # Its memory is jax's; a SavedModel is written and checked on the CPU.
    tf.config.set_visible_devices([], "GPU")
    return tf, jax2tf
