"""The training state: everything a step changes, as one plain pytree."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jtl.engine.freeze import TRAINABLE
from jtl.engine.optim import PartitionedTransformation, carry_state
from jtl.errors import ConfigError
from jtl.rng import base_key
from jtl.tree import merge, select

_COLLECTIONS = {"params", "batch_stats"}
_FIRST_SCALE = 2.0**15  # as torch.amp.GradScaler begins near; it adapts within a few steps


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class LossScale:
    """The factor that keeps float16 gradients from vanishing.

    Attributes:
        factor: float32 scalar, multiplied onto the loss and divided out of the gradients.
        streak: int32 scalar, finite steps since the factor last changed.
    """

    factor: jax.Array
    streak: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """What a training step maps to its successor.

    Attributes:
        step: int32 scalar, the number of batches consumed.
        params: the whole tree of parameters, frozen ones included.
        batch_stats: the running statistics of normalisation.
        opt_state: the optimizer's state, of trainable parameters alone.
        rng: the key that all of a run's keys are derived from; it never changes.
        ema: running means of `params` (trainable ones alone) and `batch_stats`, or None.
        loss_scale: for float16, or None.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    rng: jax.Array
    ema: Any = None
    loss_scale: LossScale | None = None

    @classmethod
    def create(
        cls,
        variables: Mapping[str, Any],
        tx: optax.GradientTransformation,
        *,
        rng: int | jax.Array,
        ema: bool = False,
        loss_scale: bool = False,
    ) -> "TrainState":
        """The state before the first step.

        Args:
            variables: `{"params": ..., "batch_stats": ...}`; statistics may be absent.
            tx: the optimizer, usually from `partition_optimizer`.
            rng: a seed or a threefry key.
            ema: whether running means are kept, for a step with `ema_decay`.
            loss_scale: whether the loss is scaled, for networks that compute in float16.

        Raises:
            ConfigError: `variables` has no parameters, or collections no step would update.
        """
        unknown = set(variables) - _COLLECTIONS
        if "params" not in variables or unknown:
            raise ConfigError(
                f"variables holds {sorted(variables)}; a training state takes 'params' and "
                "'batch_stats' (for other collections write a plain apply function)."
            )
        params, stats = variables["params"], variables.get("batch_stats", {})
        scale = LossScale(factor=jnp.float32(_FIRST_SCALE), streak=jnp.int32(0))
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=stats,
            opt_state=_initialised(tx, params),
            rng=base_key(rng),
            # Copies, because a step that is given the state to consume cannot consume a leaf twice.
            ema=jax.tree.map(
                lambda leaf: jnp.array(leaf, copy=True),
                {"params": _trainable(params, tx), "batch_stats": stats},
            )
            if ema
            else None,
            loss_scale=scale if loss_scale else None,
        )

    def succeeded_by(
        self, tx: optax.GradientTransformation, *, keep_optimizer: bool = True
    ) -> "TrainState":
        """The state with which another optimizer, or freeze spec, goes on from this one.

        The step, the parameters, the statistics and the key stay. Running means of parameters
        that stay trainable go on; those of newly trainable ones begin at their value.

        Args:
            tx: the next optimizer.
            keep_optimizer: whether the optimizer's state of parameters that stay trainable goes
                on too, which asks for the same rule; all else begins afresh.
        """
        fresh = TrainState.create(
            self.variables,
            tx,
            rng=self.rng,
            ema=self.ema is not None,
            loss_scale=self.loss_scale is not None,
        )
        return dataclasses.replace(
            fresh,
            step=self.step,
            opt_state=carry_state(self.opt_state, fresh.opt_state)
            if keep_optimizer
            else fresh.opt_state,
            ema=carry_state(self.ema, fresh.ema),
            loss_scale=self.loss_scale,
        )

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params": ..., "batch_stats": ...}`, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def ema_variables(self) -> dict[str, Any]:
        """The running means in the same form, frozen parameters included.

        Raises:
            ConfigError: the state keeps none.
        """
        if self.ema is None:
            raise ConfigError("this state keeps no running means; create it with ema=True.")
        return {
            "params": merge(self.ema["params"], self.params),
            "batch_stats": self.ema["batch_stats"],
        }


def _initialised(tx: optax.GradientTransformation, params: Any) -> Any:
    """`tx.init(params)`: of parameters on one device one program, not a few for each leaf."""
    leaves = jax.tree.leaves(params)
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
    if traced or len({d for leaf in leaves for d in getattr(leaf, "devices", set)()}) > 1:
        return tx.init(params)  # where the state lies is left to the optimizer
    try:
        program = jax.jit(tx.init).trace(params)
    except TypeError:  # it asks for values, or gives what is no array
        return tx.init(params)
    # Arrays of its own, as large as the parameters, are not to become a part of a program.
    return tx.init(params) if program.jaxpr.consts else program.lower().compile()(params)


def _trainable(params: Any, tx: optax.GradientTransformation) -> Any:
    if not isinstance(tx, PartitionedTransformation):
        return params
    return select(params, tx.labels, TRAINABLE)
