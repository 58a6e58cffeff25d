"""The blocks of Inception v3: parallel branches whose channels are joined."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.models.layers import Layers, computed_once
from jtl.models.pooling import average_pool, max_pool


class Mixer(nn.Module):
    """What the parts of the network share: convolutions with norm, and pools.

    Attributes:
        layers: makes the layers.
        count_padding: as in `InceptionV3`.
    """

    layers: Layers
    count_padding: bool

    def unit(
        self,
        x: jax.Array,
        name: str,
        features: int,
        kernel: tuple[int, int],
        train: bool,
        *,
        stride: int = 1,
        padded: bool = True,
        relu: bool = True,
    ) -> jax.Array:
        """Convolution, BatchNorm and ReLU; unpadded, only whole windows count."""
        unit = ConvUnit(
            layers=self.layers,
            features=features,
            kernel=kernel,
            stride=stride,
            padded=padded,
            relu=relu,
            name=name,
        )
        return unit(x, train)

    def block(
        self, x: jax.Array, name: str, kind: type["Mixer"], train: bool, **fields: Any
    ) -> jax.Array:
        """One block inside a stage, made as the stage is."""
        block = kind(layers=self.layers, count_padding=self.count_padding, name=name, **fields)
        return block(x, train)

    def average(self, x: jax.Array) -> jax.Array:
        """The mean over 3×3 pixels, at the same resolution."""
        return average_pool(x, 3, count_padding=self.count_padding)


class ConvUnit(nn.Module):
    """A convolution with its BatchNorm and ReLU.

    Attributes:
        layers: makes the layers.
        features: output channels.
        kernel: height and width in pixels.
        stride: both ways.
        padded: by half the kernel, or not at all.
        relu: whether the ReLU is done here, and not by the pool behind.
    """

    layers: Layers
    features: int
    kernel: tuple[int, int]
    stride: int = 1
    padded: bool = True
    relu: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, c]` to `[batch, h', w', features]`."""
        conv = self.layers.conv(
            self.features,
            self.kernel,
            stride=self.stride,
            padding=None if self.padded else (0, 0),
            name="conv",
        )
        x = self.layers.norm(name="bn")(conv(x), use_running_average=not train)
        return nn.relu(x) if self.relu else x


class BlockA(Mixer):
    """1×1, 5×5 and two 3×3 beside an average pool, at 35×35.

    Attributes:
        pooled: channels of the pool's branch.
    """

    pooled: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, c]` to `[batch, h, w, 224 + pooled]`."""
        one = self.unit(x, "branch1x1", 64, (1, 1), train)
        five = self.unit(x, "branch5x5_1", 48, (1, 1), train)
        five = self.unit(five, "branch5x5_2", 64, (5, 5), train)
        three = self.unit(x, "branch3x3dbl_1", 64, (1, 1), train)
        three = self.unit(three, "branch3x3dbl_2", 96, (3, 3), train)
        three = self.unit(three, "branch3x3dbl_3", 96, (3, 3), train)
        pool = self.unit(self.average(x), "branch_pool", self.pooled, (1, 1), train)
        return computed_once(jnp.concatenate([one, five, three, pool], axis=-1))


class BlockB(Mixer):
    """The reduction from 35×35 to 17×17."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, c]` to `[batch, (h-1)/2, (w-1)/2, 480 + c]`."""
        one = self.unit(x, "branch3x3", 384, (3, 3), train, stride=2, padded=False)
        two = self.unit(x, "branch3x3dbl_1", 64, (1, 1), train)
        two = self.unit(two, "branch3x3dbl_2", 96, (3, 3), train)
        two = self.unit(two, "branch3x3dbl_3", 96, (3, 3), train, stride=2, padded=False)
        return computed_once(jnp.concatenate([one, two, max_pool(x, 3)], axis=-1))


class BlockC(Mixer):
    """Factorised 7×7 branches beside an average pool, at 17×17.

    Attributes:
        inner: channels inside the 7×7 branches.
    """

    inner: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, c]` to `[batch, h, w, 768]`."""
        one = self.unit(x, "branch1x1", 192, (1, 1), train)
        seven = self.unit(x, "branch7x7_1", self.inner, (1, 1), train)
        seven = self.unit(seven, "branch7x7_2", self.inner, (1, 7), train)
        seven = self.unit(seven, "branch7x7_3", 192, (7, 1), train)
        double = self.unit(x, "branch7x7dbl_1", self.inner, (1, 1), train)
        double = self.unit(double, "branch7x7dbl_2", self.inner, (7, 1), train)
        double = self.unit(double, "branch7x7dbl_3", self.inner, (1, 7), train)
        double = self.unit(double, "branch7x7dbl_4", self.inner, (7, 1), train)
        double = self.unit(double, "branch7x7dbl_5", 192, (1, 7), train)
        pool = self.unit(self.average(x), "branch_pool", 192, (1, 1), train)
        return computed_once(jnp.concatenate([one, seven, double, pool], axis=-1))


class BlockD(Mixer):
    """The reduction from 17×17 to 8×8."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, c]` to `[batch, (h-1)/2, (w-1)/2, 512 + c]`."""
        one = self.unit(x, "branch3x3_1", 192, (1, 1), train)
        one = self.unit(one, "branch3x3_2", 320, (3, 3), train, stride=2, padded=False)
        two = self.unit(x, "branch7x7x3_1", 192, (1, 1), train)
        two = self.unit(two, "branch7x7x3_2", 192, (1, 7), train)
        two = self.unit(two, "branch7x7x3_3", 192, (7, 1), train)
        two = self.unit(two, "branch7x7x3_4", 192, (3, 3), train, stride=2, padded=False)
        return computed_once(jnp.concatenate([one, two, max_pool(x, 3)], axis=-1))


class BlockE(Mixer):
    """3×3 branches that fan out into 1×3 and 3×1, beside an average pool, at 8×8."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, c]` to `[batch, h, w, 2048]`."""
        one = self.unit(x, "branch1x1", 320, (1, 1), train)
        three = self.unit(x, "branch3x3_1", 384, (1, 1), train)
        wide = self.unit(three, "branch3x3_2a", 384, (1, 3), train)
        tall = self.unit(three, "branch3x3_2b", 384, (3, 1), train)
        double = self.unit(x, "branch3x3dbl_1", 448, (1, 1), train)
        double = self.unit(double, "branch3x3dbl_2", 384, (3, 3), train)
        wider = self.unit(double, "branch3x3dbl_3a", 384, (1, 3), train)
        taller = self.unit(double, "branch3x3dbl_3b", 384, (3, 1), train)
        pool = self.unit(self.average(x), "branch_pool", 192, (1, 1), train)
        return computed_once(jnp.concatenate([one, wide, tall, wider, taller, pool], axis=-1))
