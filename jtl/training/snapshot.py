"""Plain copies of the state that runs, in which what cannot have changed is not copied again."""

from collections.abc import Mapping
from typing import Any

import jax

from jtl.engine.parallel import Placement
from jtl.engine.state import TrainState
from jtl.tree import path_string


class Snapshots:
    """Takes plain copies of the states of one phase.

    Args:
        place: where they run.
        held: plain leaves of the variables by slash path, such as `params/stem/conv/kernel`,
            which no step of the phase changes.
    """

    def __init__(self, place: Placement, held: Mapping[str, Any]) -> None:
        self._place, self._held = place, held
        self._structure: Any = None
        self._paths: list[str] = []

    def __call__(self, running: TrainState, *, whole: bool = False) -> TrainState:
        """A plain copy of a placed state, for whose values it does not wait.

        Args:
            running: the state.
            whole: whether what is held is copied all the same.
        """
        if whole:
            return self._place.get_state(running)
        leaves, structure = jax.tree.flatten(running)
        # The loop stands still here: paths are made once.
        if self._structure is None or structure != self._structure:
            found, self._structure = jax.tree_util.tree_flatten_with_path(running)
            self._paths = [path_string(path) for path, _ in found]
        moving = [place for place, path in enumerate(self._paths) if path not in self._held]
        copies = self._place.get_state([leaves[place] for place in moving])
        plain = [self._held.get(path) for path in self._paths]
        for place, copy in zip(moving, copies, strict=True):
            plain[place] = copy
        return jax.tree.unflatten(structure, plain)
