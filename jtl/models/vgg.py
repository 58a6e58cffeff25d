"""The VGG networks, with and without BatchNorm."""

from typing import ClassVar

import flax.linen as nn
import jax

from jtl.models.layers import Layers, lean_relu
from jtl.models.pooling import adaptive_average_pool, max_pool
from jtl.models.staged import StagedNet

# Pixels a side that the classifier sees, whatever the image (Simonyan and Zisserman, 2014: 224/32).
POOLED_SIZE = 7

dense_normal = nn.initializers.normal(0.01)


class VGG(StagedNet, kw_only=True):
    """A VGG of stages `block1 … block5, classifier, head`.

    Dropout at `dropout_rate` also follows the classifier's first layer, as in the original.

    Attributes:
        stage_sizes: convolutions in each block.
        widths: channels of each block.
        hidden: the width of the classifier's two layers.
        batch_norm: whether a BatchNorm follows each convolution.
        epsilon: BatchNorm's.
        momentum: the share of the old running statistics that BatchNorm keeps at a step.
    """

    stage_sizes: tuple[int, ...] = (2, 2, 3, 3, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = 4096
    batch_norm: bool = False
    epsilon: float = 1e-5
    momentum: float = 0.9

    minimum_size: ClassVar[int] = 32

    @property
    def stages(self) -> tuple[str, ...]:
        """`block1` and on, `classifier`, `head`."""
        blocks = (f"block{i + 1}" for i in range(len(self.stage_sizes)))
        return (*blocks, "classifier", "head")

    @property
    def feature_width(self) -> int:
        """The width of the classifier."""
        return self.hidden

    def setup(self) -> None:
        """Makes one submodule a stage."""
        self._check_remat()
        layers = Layers(
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            epsilon=self.epsilon,
            momentum=self.momentum,
        )
        for index, (depth, width) in enumerate(zip(self.stage_sizes, self.widths, strict=True)):
            name = f"block{index + 1}"
            block = self._stage_class(name, ConvBlock)(
                layers=layers, depth=depth, features=width, batch_norm=self.batch_norm
            )
            setattr(self, name, block)
        self.classifier = self._stage_class("classifier", Classifier)(
            layers=layers, features=self.hidden, dropout_rate=self.dropout_rate
        )
        self.dropout = nn.Dropout(self.dropout_rate)
        self.head = self._dense_head(kernel_init=dense_normal)


class ConvBlock(nn.Module):
    """3×3 convolutions at one resolution, then max-pooling.

    Attributes:
        layers: makes the layers.
        depth: how many convolutions.
        features: their channels.
        batch_norm: whether a BatchNorm follows each.
    """

    layers: Layers
    depth: int
    features: int
    batch_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, c]` to `[batch, h/2, w/2, features]`."""
        for i in range(1, self.depth + 1):
            x = self.layers.conv(self.features, (3, 3), use_bias=True, name=f"conv{i}")(x)
            if self.batch_norm:
                x = self.layers.norm(name=f"bn{i}")(x, use_running_average=not train)
            if i < self.depth:
                # Where a norm comes between, its gradient needs the convolution's output anyway.
                x = nn.relu(x) if self.batch_norm else lean_relu(x)
        return max_pool(x, 2, relu=True)


class Classifier(nn.Module):
    """The two wide dense layers between the last block and the head.

    Attributes:
        layers: says the dtypes.
        features: the width of both.
        dropout_rate: the share dropped between them in training.
    """

    layers: Layers
    features: int
    dropout_rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, c]` to `[batch, features]`, flattened as height, width, channel."""
        x = adaptive_average_pool(x, POOLED_SIZE)
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(self._dense("fc1")(x))
        x = nn.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)
        return nn.relu(self._dense("fc2")(x))

    def _dense(self, name: str) -> nn.Dense:
        return nn.Dense(
            self.features,
            dtype=self.layers.dtype,
            param_dtype=self.layers.param_dtype,
            kernel_init=dense_normal,
            name=name,
        )
