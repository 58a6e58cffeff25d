"""Trains a small ResNet on digits with Keras on JAX, as a script does: `SEED EPOCHS`."""

import os
import sys
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import keras
from keras import layers

from benchmarks.peers import digits


def block(x: Any, features: int, stride: int) -> Any:
    """Two 3×3 convolutions and what goes around them."""
    y = layers.Conv2D(features, 3, stride, padding="same", use_bias=False)(x)
    y = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(y))
    y = layers.Conv2D(features, 3, padding="same", use_bias=False)(y)
    y = layers.BatchNormalization(momentum=0.9)(y)
    if stride > 1:
        x = layers.Conv2D(features, 1, stride, use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
    return layers.Activation("relu")(layers.Add()([x, y]))


def network() -> Any:
    """The layers of jtl's `resnet_mini`."""
    first, second, third = digits.WIDTHS
    images = keras.Input((32, 32, 3))
    x = layers.Conv2D(first, 3, padding="same", use_bias=False)(layers.AveragePooling2D(2)(images))
    x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))
    x = block(block(block(x, first, 1), second, 2), third, 2)
    logits = layers.Dense(10)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(images, logits)


class Say(keras.callbacks.Callback):
    """Says the validation accuracy after each epoch."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """One line of JSON."""
        digits.say(epoch + 1, (logs or {})["val_accuracy"])


def main() -> None:
    """Trains with `fit`."""
    seed, epochs = (int(text) for text in sys.argv[1:])
    keras.utils.set_random_seed(seed)
    (images, labels), validation = digits.load(seed)
    whole = len(labels) // digits.BATCH * digits.BATCH
    steps = epochs * (whole // digits.BATCH)
    rate = keras.optimizers.schedules.CosineDecay(digits.RATE, steps)
    model = network()
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=digits.DECAY),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(
        images[:whole],
        labels[:whole],
        batch_size=digits.BATCH,
        epochs=epochs,
        validation_data=validation,
        validation_batch_size=360,
        callbacks=[Say()],
        verbose=0,
    )


if __name__ == "__main__":
    main()
