"""What several processes of one run do as one: the first acts, and all have its result or error."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from jtl import errors
from jtl.errors import JtlError

Value = TypeVar("Value")


def is_first() -> bool:
    """Whether this is the process that prints and writes; one that is alone is."""
    # Asking for its index would start the devices of a process that may never use them.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def on_first(action: Callable[[], Value]) -> Value:
    """What an action returns on the first process, which alone runs it, on every process.

    All processes call this at the same point, and wait there for the first.

    Args:
        action: returns what JSON can hold.

    Raises:
        JtlError: the action's own, on every process.
    """
    if jax.process_count() == 1:
        return action()
    if not is_first():
        return _opened(json.loads(_text_of_first("")))
    try:
        value = action()
    except BaseException as error:
        kind = type(error).__name__ if isinstance(error, JtlError) else None
        _text_of_first(json.dumps({"error": kind, "said": str(error)}))
        raise
    return _opened(json.loads(_text_of_first(json.dumps({"value": value}))))


def arrays_of_first(like: Any, arrays: Any = None) -> Any:
    """The first process's arrays, on every process.

    Args:
        like: a pytree of arrays, or of their shapes and dtypes.
        arrays: the values, on the first process; the others need none.

    Returns:
        numpy arrays.
    """
    from jax.experimental.multihost_utils import broadcast_one_to_all

    def own(leaf: Any, value: Any) -> np.ndarray:
        return np.asarray(value) if is_first() else np.zeros(np.shape(leaf), leaf.dtype)

    mine = jax.tree.map(own, like, arrays if is_first() else like)
    return jax.tree.map(np.asarray, broadcast_one_to_all(mine))


def _opened(answer: dict[str, Any]) -> Any:
    if "error" not in answer:
        return answer["value"]
    if answer["error"] is None:
        raise RuntimeError(f"process 0 failed: {answer['said']}")
    raise getattr(errors, answer["error"], JtlError)(answer["said"])


def _text_of_first(text: str) -> str:
    data = np.frombuffer(text.encode(), np.uint8)
    size = int(arrays_of_first(np.int32(0), np.int32(data.size)))
    # Few lengths, because each is compiled.
    buffer = np.zeros(1 << size.bit_length(), np.uint8)
    buffer[: data.size] = data
    return bytes(arrays_of_first(buffer, buffer)[:size]).decode()
