"""What every network is: a chain of named stages that can be run whole or in part."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.errors import ConfigError
from jtl.models.layers import float_dtype
from jtl.models.pooling import global_average
from jtl.tree import nearest


class StagedNet(nn.Module, kw_only=True):
    """A classifier made of stages, each a submodule whose name begins its parameters' paths.

    A subclass sets up one submodule a stage, called as `stage(x, train)`, and `head` and
    `dropout`.

    Attributes:
        num_classes: the width of the logits.
        dropout_rate: the share of features dropped before the head in training, in [0, 1).
        dtype: of the computation; None lets images and parameters decide.
        param_dtype: of new parameters.
        remat: the stages whose activations are computed again in the backward pass instead
            of kept, such as `("layer1", "layer2")`.
    """

    num_classes: int
    dropout_rate: float = 0.0
    dtype: Any = None
    param_dtype: Any = jnp.float32
    remat: tuple[str, ...] = ()

    # Pixels a side below which a network has nothing left to pool.
    minimum_size: ClassVar[int] = 1

    @property
    def stages(self) -> tuple[str, ...]:
        """The names that parameter paths begin with, in the order the network runs them."""
        raise NotImplementedError

    @property
    def chain(self) -> tuple[str, ...]:
        """The stages that follow one another, from the images to the logits."""
        return tuple(name for name in self.stages if name not in self.branches)

    @property
    def branches(self) -> Mapping[str, str]:
        """The stages beside the chain, each with the one whose output it takes."""
        return {}

    @property
    def example_size(self) -> int:
        """Pixels a side that the network was made for; all of it can be traced there."""
        return 224

    @property
    def feature_width(self) -> int:
        """The width of `features` and of the head's input."""
        raise NotImplementedError

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """The logits of a batch.

        Args:
            images: float `[batch, height, width, 3]`, normalised as the weights expect.
            train: whether BatchNorm takes the batch's own statistics (and updates the running
                ones, with `mutable=["batch_stats"]`) and dropout drops.

        Returns:
            float `[batch, num_classes]`, at least float32.

        Raises:
            ConfigError: the images have another rank, or are too small for the network.
        """
        return self.run_stages(images, train=train)

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """What the head sees before its dropout: float `[batch, feature_width]`."""
        chain = self.chain
        return self._pool(self.run_stages(images, last=chain[-2], train=train))

    def activations(self, images: jax.Array, train: bool = False) -> dict[str, jax.Array]:
        """The output of every stage by name; that of `head` is the logits."""
        outputs, x = {}, images
        for name in self.chain:
            x = outputs[name] = self.run_stages(x, first=name, last=name, train=train)
        return outputs

    def run_stages(
        self,
        x: jax.Array,
        first: str | None = None,
        last: str | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Runs the stages from `first` to `last`, both included.

        Args:
            x: the images, or what the stage before `first` gave. `head` also takes features
                that are pooled already, `[batch, feature_width]`.
            first: the name of a stage; None begins with the images.
            last: the name of a stage; None ends with the logits.
            train: as in the call.

        Returns:
            The output of `last`.

        Raises:
            ConfigError: there is no such stage, `first` comes after `last`, or the images do
                not fit.
        """
        chain = self.chain
        begin = 0 if first is None else _place(first, chain)
        end = len(chain) - 1 if last is None else _place(last, chain)
        if begin > end:
            raise ConfigError(
                f"stage {first!r} comes after {last!r}; the order is {', '.join(chain)}."
            )
        if begin == 0:
            self._check_images(x)
        for name in chain[begin : end + 1]:
            x = self._classify(x, train) if name == "head" else getattr(self, name)(x, train)
            self._after_stage(name, x, train)
        return x

    def _after_stage(self, name: str, x: jax.Array, train: bool) -> None:
        """Where a family hangs a branch onto a stage; nothing by default."""

    def _classify(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.dropout(self._pool(x), deterministic=not train)
        return self.head(x)

    def _pool(self, x: jax.Array) -> jax.Array:
        return global_average(x) if x.ndim == 4 else x.astype(float_dtype(x.dtype))

    def _dense_head(self, **inits: Any) -> nn.Dense:
        dtype = None if self.dtype is None else float_dtype(self.dtype)
        return nn.Dense(self.num_classes, dtype=dtype, param_dtype=self.param_dtype, **inits)

    def _stage_class(self, name: str, stage: type[nn.Module]) -> type[nn.Module]:
        """The class of a stage, wrapped where `remat` names it; parameter paths stay."""
        if name in self.remat:
            # Argument 2 is `train`, which chooses code and so must stay a Python value.
            return nn.remat(stage, static_argnums=(2,))
        return stage

    def _check_remat(self) -> None:
        for name in self.remat:
            if name == "head" or name not in self.stages:
                stages = [stage for stage in self.stages if stage != "head"]
                raise ConfigError(
                    f"remat names {name!r}, which is no stage that can be rematerialised: "
                    f"{', '.join(stages)}."
                )

    def _check_images(self, images: jax.Array) -> None:
        if images.ndim != 4:
            raise ConfigError(
                f"images have shape {list(images.shape)}; the model takes "
                "[batch, height, width, channel]."
            )
        if min(images.shape[1:3]) < self.minimum_size:
            raise ConfigError(
                f"images of {images.shape[1]}×{images.shape[2]} pixels are too small for "
                f"{type(self).__name__}, which needs {self.minimum_size} a side; resize them."
            )


def _place(name: str, chain: tuple[str, ...]) -> int:
    if name not in chain:
        close = nearest(name, chain, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(f"there is no stage {name!r}; there is {', '.join(chain)}.{hint}")
    return chain.index(name)
