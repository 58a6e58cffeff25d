"""A plain copy of the state that runs, in which what cannot have changed is not copied again."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jtl.engine.parallel import Placement
from jtl.engine.state import TrainState
from jtl.tree import filled, without


def snapshot(place: Placement, running: TrainState, held: Mapping[str, Any]) -> TrainState:
    """A plain copy of a placed state.

    Args:
        place: where it runs.
        running: the state.
        held: plain leaves of its variables by slash path, such as `params/stem/conv/kernel`,
            which are taken in place of a copy.
    """
    thin = without(running.variables, held)
    plain = place.get_state(dataclasses.replace(running, **thin))
    return dataclasses.replace(plain, **filled(plain.variables, held))
