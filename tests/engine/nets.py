"""Small networks and batches that the engine's tests share."""

import zlib
from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import jtl
from jtl.models.registry import create_model
from jtl.tree import map_with_path


def mini(**fields):
    """The small residual network, narrowed so that it compiles fast."""
    fields = {"widths": (4, 4, 8), "entry": "small", "num_classes": 4, **fields}
    return create_model("resnet_mini", **fields)


@lru_cache
def shapes_of(model, size):
    """The shapes of a network's variables, traced once."""
    return jax.eval_shape(model.init, jax.random.key(1), jnp.zeros((1, size, size, 3)))


def variables_of(model, size=8, dtype=jnp.float32):
    """Random variables of the right scale, no leaf of them constant, without compiling `init`."""

    def draw(path, leaf):
        values = np.random.default_rng(zlib.crc32(path.encode())).normal(size=leaf.shape)
        if path.endswith("kernel"):
            values *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            values = 0.1 * values + path.endswith(("scale", "var"))
        return jnp.asarray(values, dtype)

    return map_with_path(draw, shapes_of(model, size))


def batch_of(n=16, classes=4, size=8, masked=(), dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.ones(n, bool)
    mask[list(masked)] = False
    return {
        "image": rng.normal(size=(n, size, size, 3)).astype(dtype),
        "label": rng.integers(0, classes, n).astype(np.int32),
        "mask": mask,
    }


def build(model, variables, freeze=(), tx=None, seed=0, **options):
    labels = jtl.freeze_labels(variables["params"], freeze)
    tx = jtl.partition_optimizer(tx or optax.sgd(0.1, momentum=0.9), labels)
    step = jtl.make_train_step(model, tx, freeze=freeze, **options)
    return step, jtl.TrainState.create(variables, tx, rng=seed)


class Plain(nn.Module):
    """A network that knows nothing of jtl: stock layers, the mode fixed at construction."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(8, (3, 3), name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="bn")(x)
        x = nn.relu(x).mean((1, 2))
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return nn.Dense(4, name="head")(x)
