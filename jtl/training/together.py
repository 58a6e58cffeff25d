"""What several processes of one run do as one: the first acts, and all have its result or error."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from jtl import errors

Result = TypeVar("Result")


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return jax.process_index() == 0


def on_first(action: Callable[[], Result]) -> Result:
    """Acts on the first process only.

    Args:
        action: gives what JSON can hold.

    Returns:
        Its result, on every process.

    Raises:
        JtlError: the action's own, on every process.
    """
    if jax.process_count() == 1:
        return action()
    answer: dict[str, Any] = {}
    if is_first():
        try:
            answer = {"value": action()}
        except errors.JtlError as error:
            answer = {"error": type(error).__name__, "said": str(error)}
    answer = json.loads(_broadcast_text(json.dumps(answer)))
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["said"])
    result: Result = answer["value"]
    return result


def arrays_of_first(like: Any, arrays: Any) -> Any:
    """The first process's arrays, on every process.

    Args:
        like: a pytree of arrays or of their shapes and dtypes.
        arrays: the values, on the first process; the others' are not looked at.

    Returns:
        numpy arrays.
    """
    from jax.experimental.multihost_utils import broadcast_one_to_all

    def own(leaf: Any, value: Any) -> np.ndarray:
        return np.asarray(value) if is_first() else np.zeros(leaf.shape, leaf.dtype)

    mine = jax.tree.map(own, like, arrays if is_first() else like)
    return jax.tree.map(np.asarray, broadcast_one_to_all(mine))


def _broadcast_text(text: str) -> str:
    from jax.experimental.multihost_utils import broadcast_one_to_all

    data = np.frombuffer(text.encode(), np.uint8)
    length = int(broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(length, np.uint8)
    if is_first():
        padded[:] = data
    return bytes(np.asarray(broadcast_one_to_all(padded))).decode()
