"""Keras's side of a training step: its own network and `fit`, on JAX."""

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import numpy as np

from benchmarks.contest.cell import CLASSES, Cell
from benchmarks.contest.serve import peak_resident_bytes, serve

# Keras's networks, and the last layer before what is trained as the last stage.
_NETWORKS = {
    "resnet50": ("ResNet50", "conv4_block6_out"),
    "vgg16": ("VGG16", "block4_pool"),
    "inception_v3": ("InceptionV3", "mixed7"),
}


class Repeated(keras.utils.PyDataset):
    """One batch, as often as asked for."""

    def __init__(self, batch: tuple[Any, Any], steps: int) -> None:
        super().__init__()
        self._batch, self._steps = batch, steps

    def __len__(self) -> int:
        """Steps an epoch."""
        return self._steps

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """The batch."""
        return self._batch


class KerasSide:
    """A compiled model and the batch."""

    def __init__(self, cell: Cell, variant: str) -> None:
        del variant
        precision = "highest" if cell.precision == "float32" else "tensorfloat32"
        jax.config.update("jax_default_matmul_precision", precision)
        policy = "mixed_bfloat16" if cell.precision == "bfloat16" else "float32"
        keras.config.set_dtype_policy(policy)
        self._model = _network(cell)
        loss = keras.losses.SparseCategoricalCrossentropy()
        self._model.compile(keras.optimizers.AdamW(1e-3), loss)
        image, label = cell.arrays()
        self._batch = (image, label.astype(np.int32))

    def run(self, steps: int) -> None:
        """So many updates."""
        self._model.fit(Repeated(self._batch, steps), epochs=1, verbose=0, shuffle=False)

    def facts(self) -> dict[str, Any]:
        """The memory that it took at most."""
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        if peak is not None:
            return {"peak_bytes": peak, "peak_by": "allocator"}
        return {"peak_bytes": peak_resident_bytes(), "peak_by": "process"}


def _network(cell: Cell) -> Any:
    if cell.cached:
        dense = keras.layers.Dense(CLASSES, activation="softmax", dtype="float32")
        return keras.Sequential([keras.Input((cell.width,)), dense])
    make, before = _NETWORKS[cell.network]
    shape = (cell.pixels, cell.pixels, 3)
    model = getattr(keras.applications, make)(weights=None, input_shape=shape, classes=CLASSES)
    names = [layer.name for layer in model.layers]
    first = {"full": 0, "head only": len(names) - 1}.get(cell.trained)
    for layer in model.layers[: names.index(before) + 1 if first is None else first]:
        layer.trainable = False
    return model


if __name__ == "__main__":
    serve(KerasSide)
