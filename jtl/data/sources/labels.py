"""Labels as people have them, numbers, names or rows of 0 and 1, as sources have them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jtl.data.sources.listing import first_of, natural_key
from jtl.data.sources.names import shown
from jtl.errors import DataError

_MOST_UNNAMED = 1 << 20  # classes


def numbered(
    labels: Any, classes: Sequence[Any] | None, where: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels as a source has them, and the names of their classes.

    Args:
        labels: class numbers or names `[examples]`, maybe with a last axis of 1; or 0 and 1
            `[examples, classes]`.
        classes: the name of each class; by default those in the labels, or numbers.
        where: what messages call the source.

    Raises:
        DataError: they are something else, or do not fit each other.
    """
    try:
        array = np.asarray(labels)
    except Exception as error:  # of arrays of other libraries, anything
        raise DataError(f"the labels of {where} are no array: {shown(str(error))}.") from error
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1 and (array.dtype.kind == "U" or _holds_text(array)):
        array, classes = _numbers_of_names([str(name) for name in array], classes, where)
    several = array.ndim == 2 and array.dtype.kind in "biuf" and bool(np.isin(array, (0, 1)).all())
    if not several and (array.ndim != 1 or array.dtype.kind not in "iu"):
        raise DataError(
            f"the labels of {where} are {array.dtype}{list(array.shape)}; give class numbers of an "
            "integer type or names, one for each example, or 0 and 1 [examples, classes]."
        )
    highest = array.shape[1] - 1 if several else int(array.max(initial=0))
    if classes is None and highest >= _MOST_UNNAMED:
        raise DataError(
            f"the labels of {where} run up to {highest}, which are hardly numbers of classes; "
            "np.unique(labels, return_inverse=True) gives such numbers, or name the classes."
        )
    known = tuple(map(str, range(highest + 1) if classes is None else classes))
    lowest = 0 if several else int(array.min(initial=0))
    if lowest < 0 or highest >= len(known) or (several and highest != len(known) - 1):
        raise DataError(
            f"the labels of {where} run from {lowest} to {highest}, but there are {len(known)} "
            f"classes, so they must be 0 to {len(known) - 1}."
        )
    return array.astype(np.float32 if several else np.int32), known


def _numbers_of_names(
    names: Sequence[str], classes: Sequence[Any] | None, where: str
) -> tuple[np.ndarray, Sequence[Any]]:
    known = sorted(set(names), key=natural_key) if classes is None else [str(c) for c in classes]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise DataError(
            f"the labels of {where} name classes that it does not have: "
            f"{first_of(unknown)}; it has {first_of(known)}."
        )
    number = {name: place for place, name in enumerate(known)}
    return np.array([number[name] for name in names], np.int32), known


def _holds_text(array: np.ndarray) -> bool:
    return array.dtype == object and all(isinstance(each, str) for each in array)
