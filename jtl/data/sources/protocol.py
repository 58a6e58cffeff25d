"""The protocol of a source: labelled images with random access."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

Arrays = dict[str, np.ndarray]
Image = bytes | np.ndarray


class Source(Protocol):
    """Labelled images with random access.

    Images come as they are stored: what decodes, sizes and crops them is `jtl.data.reader`.
    """

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class, by label."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """int32 `[examples]`; or float32 `[examples, classes]`, where an image has several."""
        ...

    @property
    def splits(self) -> Mapping[str, np.ndarray]:
        """The examples of each split that the source itself names, int `[n]`; maybe none."""
        ...

    @property
    def groups(self) -> np.ndarray | None:
        """Int `[examples]`, equal for examples that belong in one split; None without groups."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the examples come from and under which licence, fit for JSON."""
        ...

    @property
    def fingerprint(self) -> str:
        """A digest that changes when the examples do, and is the same on every machine."""
        ...

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int) -> Image:
        """One image: a file's bytes, or uint8 `[height, width, 3]`, or 4 channels with alpha.

        Raises:
            DataError: it cannot be read, or is not what it was when the source was made.
        """
        ...

    def name(self, index: int) -> str:
        """What this example is called in files, such as its path within a folder; unique."""
        ...

    def where(self, index: int) -> str:
        """What a message calls this example, such as its whole path; fit for one line."""
        ...
