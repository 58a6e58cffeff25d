"""The residual networks: v1.5, v1, pre-activation V2, wide, grouped and small."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.models.layers import Layers, bias_uniform, computed_once, dense_uniform, lean_relu
from jtl.models.pooling import max_pool
from jtl.models.staged import StagedNet

EXPANSION = {"basic": 1, "bottleneck": 4, "preact": 4}


class ResNet(StagedNet, kw_only=True):
    """A ResNet of stages `stem, layer1, layer2, …, head`.

    Attributes:
        stage_sizes: blocks in each `layerN`.
        widths: channels inside each `layerN`; a bottleneck gives four times as many.
        block: `basic` (two 3×3), `bottleneck` (1×1, 3×3, 1×1) or `preact` (a bottleneck whose
            norms come first, as in ResNet V2).
        entry: the stem: `imagenet` (7×7 at stride 2, max-pooling), `small` (3×3 at stride 1) or
            `pooled` (2×2 average-pooling, then 3×3 at stride 1).
        groups: groups of the bottleneck's 3×3 (ResNeXt: 32).
        base_width: channels a group at width 64 (wide ResNet: 128; ResNeXt 32x4d: 4).
        stride_in: the convolution of a bottleneck that strides: `conv2` is v1.5 (torchvision),
            `conv1` is v1 (Keras).
        biased: the convolutions that have a bias, of `stem, conv1, conv2, conv3, downsample`.
        epsilon: BatchNorm's.
        momentum: the share of the old running statistics that BatchNorm keeps at a step.
        drop_path_rate: the chance that the last block's residual branch is dropped for an
            example in training; it grows linearly from 0 at the first block.
    """

    stage_sizes: tuple[int, ...] = (3, 4, 6, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    block: Literal["basic", "bottleneck", "preact"] = "bottleneck"
    entry: Literal["imagenet", "small", "pooled"] = "imagenet"
    groups: int = 1
    base_width: int = 64
    stride_in: Literal["conv1", "conv2"] = "conv2"
    biased: tuple[str, ...] = ()
    epsilon: float = 1e-5
    momentum: float = 0.9
    drop_path_rate: float = 0.0

    @property
    def stages(self) -> tuple[str, ...]:
        """`stem`, one `layerN` an entry of `stage_sizes`, `head`."""
        return ("stem", *(f"layer{i + 1}" for i in range(len(self.stage_sizes))), "head")

    @property
    def example_size(self) -> int:
        """Pixels a side that the entry is made for."""
        return 224 if self.entry == "imagenet" else 32

    @property
    def feature_width(self) -> int:
        """Channels that leave the last stage."""
        return self.widths[-1] * EXPANSION[self.block]

    def setup(self) -> None:
        """Makes one submodule a stage."""
        self._check_remat()
        layers = Layers(
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            epsilon=self.epsilon,
            momentum=self.momentum,
        )
        self.stem = self._stage_class("stem", Stem)(
            layers=layers,
            features=self.widths[0],
            entry=self.entry,
            biased="stem" in self.biased,
            bare=self.block == "preact",
        )
        for index in range(len(self.stage_sizes)):
            name = f"layer{index + 1}"
            setattr(self, name, self._stage_class(name, Stage)(**self._stage_fields(index, layers)))
        self.dropout = nn.Dropout(self.dropout_rate)
        self.head = self._dense_head(
            kernel_init=dense_uniform, bias_init=bias_uniform(self.feature_width)
        )

    def _stage_fields(self, index: int, layers: Layers) -> dict[str, Any]:
        """What one `layerN` is made of; blocks are counted over the whole network."""
        total, before = sum(self.stage_sizes), sum(self.stage_sizes[:index])
        rates = tuple(
            self.drop_path_rate * (before + j) / max(total - 1, 1)
            for j in range(self.stage_sizes[index])
        )
        final = index == len(self.stage_sizes) - 1
        # V2 strides on the way out of a stage, the others on the way in.
        strided = not final if self.block == "preact" else index > 0
        return {
            "layers": layers,
            "width": self.widths[index],
            "block": self.block,
            "stride": 2 if strided else 1,
            "groups": self.groups,
            "base_width": self.base_width,
            "stride_in": self.stride_in,
            "biased": self.biased,
            "drop_path_rates": rates,
            "post_norm": self.block == "preact" and final,
        }


class Stem(nn.Module):
    """From images to the first stage: a convolution and, for large images, max-pooling.

    Attributes:
        layers: makes the layers.
        features: output channels.
        entry: as in `ResNet`.
        biased: whether the convolution has a bias.
        bare: whether norm and activation are left to the first block (V2).
    """

    layers: Layers
    features: int
    entry: str
    biased: bool
    bare: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, 3]` to a quarter of each side; half if pooled, all if small."""
        large = self.entry == "imagenet"
        if self.entry == "pooled":
            x = nn.avg_pool(x, (2, 2), (2, 2))
        kernel, stride = ((7, 7), 2) if large else ((3, 3), 1)
        x = self.layers.conv(
            self.features, kernel, stride=stride, use_bias=self.biased, name="conv"
        )(x)
        if not self.bare:
            x = self.layers.norm(name="bn")(x, use_running_average=not train)
        if not large:
            return x if self.bare else nn.relu(x)
        if self.bare:
            # Keras pads with zeros; after a ReLU that is the same as padding with -inf.
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            return max_pool(x, 3)
        return max_pool(x, 3, padding=1, relu=True)


class Stage(nn.Module):
    """One `layerN`: residual blocks at one resolution.

    Attributes:
        layers: makes the layers.
        width: channels inside the blocks.
        block: as in `ResNet`.
        stride: of the block that reduces the resolution: the first, in V2 the last.
        groups: as in `ResNet`.
        base_width: as in `ResNet`.
        stride_in: as in `ResNet`.
        biased: as in `ResNet`.
        drop_path_rates: one a block.
        post_norm: whether a norm and a ReLU close the stage (the last of V2).
    """

    layers: Layers
    width: int
    block: str
    stride: int
    groups: int
    base_width: int
    stride_in: str
    biased: tuple[str, ...]
    drop_path_rates: tuple[float, ...]
    post_norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, c]` to `[batch, h/stride, w/stride, width·expansion]`."""
        last = len(self.drop_path_rates) - 1
        strided = last if self.block == "preact" else 0
        inner = self.width * self.base_width // 64 * self.groups
        for j, rate in enumerate(self.drop_path_rates):
            x = BLOCKS[self.block](
                layers=self.layers,
                features=self.width * EXPANSION[self.block],
                inner=inner,
                stride=self.stride if j == strided else 1,
                first=j == 0,
                groups=self.groups,
                stride_in=self.stride_in,
                biased=self.biased,
                drop_path_rate=rate,
                name=f"block{j}",
            )(x, train)
        if self.post_norm:
            x = nn.relu(self.layers.norm(name="post_bn")(x, use_running_average=not train))
        return x


class Block(nn.Module):
    """What residual blocks share; a subclass gives the residual branch.

    Attributes:
        layers: makes the layers.
        features: output channels.
        inner: channels inside.
        stride: of the block.
        first: whether the block begins its stage.
        groups: as in `ResNet`.
        stride_in: as in `ResNet`.
        biased: as in `ResNet`.
        drop_path_rate: the chance that the residual branch is dropped for an example.
    """

    layers: Layers
    features: int
    inner: int
    stride: int
    first: bool
    groups: int
    stride_in: str
    biased: tuple[str, ...]
    drop_path_rate: float

    def conv(
        self, x: jax.Array, name: str, features: int, kernel: int, stride: int = 1
    ) -> jax.Array:
        """One square convolution of the block; only `conv2` is grouped."""
        return self.layers.conv(
            features,
            (kernel, kernel),
            stride=stride,
            groups=self.groups if name == "conv2" else 1,
            use_bias=name.removesuffix("_conv") in self.biased,
            name=name,
        )(x)

    def norm(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """One BatchNorm of the block."""
        return self.layers.norm(name=name)(x, use_running_average=not train)

    def drop_path(self, x: jax.Array, train: bool) -> jax.Array:
        """Zeroes the branch for some examples in training, scaling the others up."""
        drop = nn.Dropout(self.drop_path_rate, broadcast_dims=(1, 2, 3), name="drop_path")
        return drop(x, deterministic=not train)

    def shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        """The input, projected where the shape changes."""
        if self.stride == 1 and x.shape[-1] == self.features:
            return x
        x = self.conv(x, "downsample_conv", self.features, 1, self.stride)
        return self.norm(x, "downsample_bn", train)


class BasicBlock(Block):
    """Two 3×3 convolutions (ResNet-18 and 34)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, c]` to `[batch, h/stride, w/stride, features]`."""
        y = self.conv(x, "conv1", self.inner, 3, self.stride)
        y = nn.relu(self.norm(y, "bn1", train))
        y = self.norm(self.conv(y, "conv2", self.features, 3), "bn2", train)
        return computed_once(lean_relu(self.shortcut(x, train) + self.drop_path(y, train)))


class Bottleneck(Block):
    """1×1, 3×3 and 1×1 convolutions (ResNet-50 and deeper)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, c]` to `[batch, h/stride, w/stride, features]`."""
        early, late = (self.stride, 1) if self.stride_in == "conv1" else (1, self.stride)
        y = self.conv(x, "conv1", self.inner, 1, early)
        y = nn.relu(self.norm(y, "bn1", train))
        y = self.conv(y, "conv2", self.inner, 3, late)
        y = nn.relu(self.norm(y, "bn2", train))
        y = self.norm(self.conv(y, "conv3", self.features, 1), "bn3", train)
        return computed_once(lean_relu(self.shortcut(x, train) + self.drop_path(y, train)))


class PreactBottleneck(Block):
    """A bottleneck whose norms and activations come before the convolutions (V2)."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, h, w, c]` to `[batch, h/stride, w/stride, features]`."""
        active = nn.relu(self.norm(x, "preact_bn", train))
        if self.first:
            shortcut = self.conv(active, "downsample_conv", self.features, 1, self.stride)
        else:
            shortcut = x[:, :: self.stride, :: self.stride]
        y = nn.relu(self.norm(self.conv(active, "conv1", self.inner, 1), "bn1", train))
        y = self.conv(y, "conv2", self.inner, 3, self.stride)
        y = self.conv(nn.relu(self.norm(y, "bn2", train)), "conv3", self.features, 1)
        return computed_once(shortcut + self.drop_path(y, train))


BLOCKS: dict[str, type[Block]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "preact": PreactBottleneck,
}
