"""How one source tensor becomes one leaf of ours, and back."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform:
    """A reversible change of layout; both directions may return a view.

    Attributes:
        name: what the ledger shows, such as `OIHW→HWIO`.
        forward: from the source's layout to ours.
        inverse: from ours to the source's.
    """

    name: str
    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One line of a key table.

    Attributes:
        source: the tensor's name in the file.
        destination: the leaf's slash path in variables, such as `params/head/kernel`.
        transform: the change of layout between them.
    """

    source: str
    destination: str
    transform: Transform


SAME = Transform(name="as it is", forward=lambda a: a, inverse=lambda a: a)
OIHW_TO_HWIO = Transform(
    name="OIHW→HWIO",
    forward=lambda a: a.transpose(2, 3, 1, 0),
    inverse=lambda a: a.transpose(3, 2, 0, 1),
)
OI_TO_IO = Transform(name="OI→IO", forward=lambda a: a.T, inverse=lambda a: a.T)
OI11_TO_IO = Transform(
    name="OI11→IO",
    forward=lambda a: a[:, :, 0, 0].T,
    inverse=lambda a: a.T[:, :, None, None],
)


def dense_from_conv(height: int, width: int) -> Transform:
    """A dense layer that the source writes as a convolution: `[o, c, h, w]` to `[hwc, o]`."""

    def forward(a: np.ndarray) -> np.ndarray:
        return a.transpose(2, 3, 1, 0).reshape(-1, a.shape[0])

    def inverse(a: np.ndarray) -> np.ndarray:
        return a.reshape(height, width, -1, a.shape[1]).transpose(3, 2, 0, 1)

    return Transform(
        name=f"OCHW→(HWC)O ({height}×{width})",
        forward=forward,
        inverse=inverse,
    )


def flatten_chw_to_hwc(channels: int, height: int, width: int) -> Transform:
    """A torch dense layer after a flatten of `[c, h, w]`: `[out, chw]` to `[hwc, out]`."""

    def forward(a: np.ndarray) -> np.ndarray:
        split = a.reshape(a.shape[0], channels, height, width)
        return split.transpose(2, 3, 1, 0).reshape(height * width * channels, a.shape[0])

    def inverse(a: np.ndarray) -> np.ndarray:
        split = a.reshape(height, width, channels, a.shape[1])
        return split.transpose(3, 2, 0, 1).reshape(a.shape[1], channels * height * width)

    return Transform(
        name=f"OI→IO, flatten CHW→HWC ({channels}×{height}×{width})",
        forward=forward,
        inverse=inverse,
    )
