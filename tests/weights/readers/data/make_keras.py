"""Writes the Keras files beside it: `python make_keras.py` with keras 3.15 on its JAX backend.

Every variable number k of the net holds k + i/8 at its flat place i, so that the tests know the
values without Keras.
"""

import os
import pathlib

os.environ["KERAS_BACKEND"] = "jax"

import keras
import numpy as np
from keras import layers

HERE = pathlib.Path(__file__).parent


def make_net():
    inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv1_conv")(inputs)
    x = layers.BatchNormalization(name="conv1_bn")(x)
    x = layers.Conv2D(4, 3, use_bias=False)(x)
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.Conv2D(2, 3, use_bias=False)(x)
    x = layers.BatchNormalization(center=False)(x)
    x = layers.GlobalAveragePooling2D()(x)
    net = keras.Model(inputs, layers.Dense(5, name="predictions")(x), name="net")
    for k, variable in enumerate(net.variables):
        values = k + np.arange(np.prod(variable.shape)) / 8
        variable.assign(values.reshape(variable.shape).astype(variable.dtype))
    return net


def make_tuned(net):
    """The net as a layer of a model with augmentation, dropout and a head of its own."""
    inputs = layers.Input((8, 8, 3))
    x = layers.Dropout(0.5)(net(layers.RandomFlip()(inputs)))
    model = keras.Model(inputs, layers.Dense(2, name="new_head")(x), name="tuned")
    model.compile("sgd", "mse")
    return model


def main():
    net = make_net()
    net.save_weights(HERE / "keras-net.weights.h5")
    net.save(HERE / "keras-net.h5")
    net.save(HERE / "keras-net.keras")
    tuned = make_tuned(net)
    tuned.save_weights(HERE / "keras-tuned.weights.h5")
    tuned.save(HERE / "keras-tuned.h5")
    tuned.save(HERE / "keras-tuned.keras")
    inputs = layers.Input((4,))
    code = keras.Model(
        inputs, layers.Dense(2)(layers.Lambda(lambda x: x * 2, name="double")(inputs))
    )
    code.save(HERE / "keras-lambda.keras")
    code.save(HERE / "keras-lambda.h5")
    half = keras.Sequential([layers.Input((3,)), layers.Dense(2, dtype="bfloat16", name="half")])
    half.save_weights(HERE / "keras-bfloat16.weights.h5")


if __name__ == "__main__":
    main()
