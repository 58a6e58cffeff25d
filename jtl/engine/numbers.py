"""Numbers that may be traced, so that one compiled program serves many values of them."""

from typing import Any

import jax


def is_known(value: Any) -> bool:
    """Whether a number can be looked at while a program is made."""
    return not isinstance(value, jax.Array)


def is_zero(value: Any) -> bool:
    """Whether a number is 0 for certain; one that is traced may be anything."""
    return is_known(value) and value == 0
