"""Inception v3, as torchvision and as Keras compute it, with its auxiliary head."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax

from jtl.errors import ConfigError
from jtl.models.inception_blocks import (
    BlockA,
    BlockB,
    BlockC,
    BlockD,
    BlockE,
    ConvUnit,
    Mixer,
)
from jtl.models.layers import Layers, bias_uniform, float_dtype
from jtl.models.pooling import global_average, max_pool
from jtl.models.staged import StagedNet

# torchvision draws kernels from a normal of deviation 0.1, cut off at ±2: at 20 deviations.
kernel_normal = nn.initializers.normal(0.1)

# Channels of the 7x7 branches in the blocks of `mixed6` (Szegedy et al., 2015, as released).
MIXED6_WIDTHS = {"b": 128, "c": 160, "d": 160, "e": 192}


class InceptionV3(StagedNet, kw_only=True):
    """Inception v3 of stages `stem, mixed5, mixed6, mixed7, head` and, if asked for, `aux`.

    Attributes:
        aux_head: whether there is an auxiliary head on `mixed6`. It runs in training alone and
            leaves its logits, `[batch, num_classes]`, under `aux_logits/logits` where the caller
            makes the collection `aux_logits` mutable; what the call returns stays the same.
        aux_weight: the weight of the loss of those logits beside the main one's.
        count_padding: whether the padding of average pools counts in the mean: torchvision's
            does, Keras's does not.
        norm_scale: whether BatchNorm has a scale: torchvision's has, Keras's has not.
        epsilon: BatchNorm's.
        momentum: the share of the old running statistics that BatchNorm keeps at a step.
    """

    aux_head: bool = False
    aux_weight: float = 0.4
    count_padding: bool = True
    norm_scale: bool = True
    epsilon: float = 1e-3
    momentum: float = 0.9

    minimum_size: ClassVar[int] = 75

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in order; `aux`, a branch, is last, so that no range takes it in."""
        return ("stem", "mixed5", "mixed6", "mixed7", "head", *(("aux",) if self.aux_head else ()))

    @property
    def branches(self) -> Mapping[str, str]:
        """The auxiliary head takes the output of `mixed6`."""
        return {"aux": "mixed6"} if self.aux_head else {}

    @property
    def example_size(self) -> int:
        """Pixels a side of the original; the auxiliary head takes no less."""
        return 299

    @property
    def feature_width(self) -> int:
        """Channels that leave `mixed7`."""
        return 2048

    def setup(self) -> None:
        """Makes one submodule a stage."""
        self._check_remat()
        layers = Layers(
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            epsilon=self.epsilon,
            momentum=self.momentum,
            use_scale=self.norm_scale,
            kernel_init=kernel_normal,
        )
        for name, stage in STAGES.items():
            fields = {"layers": layers, "count_padding": self.count_padding}
            setattr(self, name, self._stage_class(name, stage)(**fields))
        self.dropout = nn.Dropout(self.dropout_rate)
        self.head = self._dense_head(
            kernel_init=kernel_normal, bias_init=bias_uniform(self.feature_width)
        )
        if self.aux_head:
            self.aux = self._stage_class("aux", AuxHead)(
                layers=layers, num_classes=self.num_classes
            )

    def _after_stage(self, name: str, x: jax.Array, train: bool) -> None:
        if self.branches.get("aux") != name:
            return
        if self.is_initializing():
            self.aux(x, train)
        elif train:
            logits = self.aux(x, train)
            self.sow("aux_logits", "logits", logits, reduce_fn=_latest, init_fn=lambda: None)


def _latest(_: jax.Array | None, new: jax.Array) -> jax.Array:
    return new


class Stem(Mixer):
    """From images to 192 channels at about an eighth of the size."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, 299, 299, 3]` to `[batch, 35, 35, 192]`."""
        x = self.unit(x, "conv1a", 32, (3, 3), train, stride=2, padded=False)
        x = self.unit(x, "conv2a", 32, (3, 3), train, padded=False)
        x = self.unit(x, "conv2b", 64, (3, 3), train, relu=False)
        x = self.unit(max_pool(x, 3, relu=True), "conv3b", 80, (1, 1), train)
        x = self.unit(x, "conv4a", 192, (3, 3), train, padded=False, relu=False)
        return max_pool(x, 3, relu=True)


class Mixed5(Mixer):
    """The three blocks at 35×35."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, 35, 35, 192]` to `[batch, 35, 35, 288]`."""
        x = self.block(x, "b", BlockA, train, pooled=32)
        x = self.block(x, "c", BlockA, train, pooled=64)
        return self.block(x, "d", BlockA, train, pooled=64)


class Mixed6(Mixer):
    """The reduction to 17×17 and the four blocks there."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, 35, 35, 288]` to `[batch, 17, 17, 768]`."""
        x = self.block(x, "a", BlockB, train)
        for name, inner in MIXED6_WIDTHS.items():
            x = self.block(x, name, BlockC, train, inner=inner)
        return x


class Mixed7(Mixer):
    """The reduction to 8×8 and the two blocks there."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, 17, 17, 768]` to `[batch, 8, 8, 2048]`."""
        x = self.block(x, "a", BlockD, train)
        x = self.block(x, "b", BlockE, train)
        return self.block(x, "c", BlockE, train)


class AuxHead(nn.Module):
    """The classifier on `mixed6` that helps early layers to learn.

    Attributes:
        layers: makes the layers.
        num_classes: the width of its logits.
    """

    layers: Layers
    num_classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[batch, 17, 17, 768]` to logits `[batch, num_classes]`, at least float32."""
        x = nn.avg_pool(x, (5, 5), (3, 3))
        if min(x.shape[1:3]) < 5:
            raise ConfigError(
                "the auxiliary head needs images of at least 299 pixels a side; resize them, "
                "or set aux_head=False."
            )
        x = ConvUnit(layers=self.layers, features=128, kernel=(1, 1), name="conv0")(x, train)
        narrow = dataclasses.replace(self.layers, kernel_init=nn.initializers.normal(0.01))
        x = ConvUnit(layers=narrow, features=768, kernel=(5, 5), padded=False, name="conv1")(
            x, train
        )
        x = global_average(x)
        dtype = None if self.layers.dtype is None else float_dtype(self.layers.dtype)
        dense = nn.Dense(
            self.num_classes,
            dtype=dtype,
            param_dtype=self.layers.param_dtype,
            kernel_init=nn.initializers.normal(0.001),
            bias_init=bias_uniform(x.shape[-1]),
            name="fc",
        )
        return dense(x)


STAGES: dict[str, type[Mixer]] = {
    "stem": Stem,
    "mixed5": Mixed5,
    "mixed6": Mixed6,
    "mixed7": Mixed7,
}
