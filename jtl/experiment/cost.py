"""What each phase of a config costs: operations and memory of its compiled step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jtl.engine.state import TrainState
from jtl.experiment.setup import Setup
from jtl.platforms import compiler_options
from jtl.training.phases import Phase


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseCost:
    """The compiler's own account of one training step on one device with the whole batch.

    Attributes:
        flops: floating-point operations a step, or None where the compiler does not say.
        memory: bytes at the peak: state, batch and temporaries; None likewise.
        optimizer: bytes of the optimizer's state.
    """

    flops: float | None
    memory: int | None
    optimizer: int


def phase_cost(setup: Setup, phase: Phase) -> PhaseCost:
    """Compiles a phase's step for the shapes of its batches, runs nothing, and asks the compiler.

    Args:
        setup: the run.
        phase: one of its phases.
    """
    config = setup.config
    state = jax.eval_shape(
        lambda variables: TrainState.create(
            variables,
            phase.tx,
            rng=config.seed,
            ema=config.train.ema_decay is not None,
            loss_scale=config.model.precision == "float16",
        ),
        setup.pretrained.variables,
    )
    program = jax.jit(phase.step, donate_argnums=0, compiler_options=compiler_options())
    compiled = program.lower(state, _batch(setup)).compile()
    costs = compiled.cost_analysis() or {}
    memory = compiled.memory_analysis()
    peak = None
    if memory is not None:
        # The new state takes the place of the old one, which is donated.
        peak = int(memory.argument_size_in_bytes + memory.temp_size_in_bytes)
    return PhaseCost(flops=costs.get("flops"), memory=peak, optimizer=_bytes(state.opt_state))


def _batch(setup: Setup) -> dict[str, jax.ShapeDtypeStruct]:
    size = setup.config.data.batch_size
    first = setup.examples.reader.gather(setup.examples.splits["train"][:1])
    batch = {
        name: jax.ShapeDtypeStruct((size, *array.shape[1:]), array.dtype)
        for name, array in first.items()
    }
    places = {name: jax.ShapeDtypeStruct((size,), jnp.int32) for name in _PLACES}
    return {**batch, **places, "mask": jax.ShapeDtypeStruct((size,), jnp.bool_)}


_PLACES = ("position", "example", "view")


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
