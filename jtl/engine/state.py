"""The training state: everything a step changes, as one plain pytree."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jtl.errors import ConfigError
from jtl.rng import base_key

_COLLECTIONS = {"params", "batch_stats"}


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
        ema: running means of trainable parameters and statistics, or None.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    rng: jax.Array
    ema: Any = None

    @classmethod
    def create(
        cls,
        variables: Mapping[str, Any],
        tx: optax.GradientTransformation,
        *,
        rng: int | jax.Array,
    ) -> "TrainState":
        """The state before the first step.

        Args:
            variables: `{"params": ..., "batch_stats": ...}`; statistics may be absent.
            tx: the optimizer, usually from `partition_optimizer`.
            rng: a seed or a threefry key.

        Raises:
            ConfigError: `variables` has no parameters, or collections no step would update.
        """
        unknown = set(variables) - _COLLECTIONS
        if "params" not in variables or unknown:
            raise ConfigError(
                f"variables holds {sorted(variables)}; a training state takes 'params' and "
                "'batch_stats' (for other collections write a plain apply function)."
            )
        params = variables["params"]
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=tx.init(params),
            rng=base_key(rng),
        )

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params": ..., "batch_stats": ...}`, as `model.apply` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}
