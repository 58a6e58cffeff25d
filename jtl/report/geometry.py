"""Where in the image each cell of a convolutional network's activations has its centre."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

_SPATIAL = (1, 2)  # of images and activations, [batch, height, width, channel]
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
    """Cells along one side of an image, in pixels of it.

    Attributes:
        start: the centre of the first cell; that of the first pixel is 0.
        step: between the centres of two cells.
    """

    start: float
    step: float

    def within(self, size: int, stride: int, before: int) -> "Grid":
        """The grid of windows of this many cells, after so many cells of padding."""
        start = self.start + ((size - 1) / 2 - before) * self.step
        return Grid(start=start, step=self.step * stride)


Grids = tuple[Grid, Grid]  # of rows, of columns


def grids_of(function: Callable[[Any], Any], images: jax.ShapeDtypeStruct) -> Grids:
    """Where the cells of a function's output lie, by the kernels, strides and padding on the way.

    Padding is on all sides in some networks, at the end alone in others, and left out in a third
    kind, so that the centre of a cell is not where an even division of the image would have it.
    Where branches meet, they agree in our families; what is not made of windows keeps its place.

    Args:
        function: from images `[batch, height, width, channel]` to activations of that form.
        images: their shape and dtype.
    """
    traced, shape = jax.make_jaxpr(function, return_shape=True)(images)
    whole = (Grid(start=0.0, step=1.0), Grid(start=0.0, step=1.0))
    (found,) = _walk(traced.jaxpr, [whole])
    if found is not None:
        return found
    rows, columns = (_even(images.shape[axis], shape.shape[axis]) for axis in _SPATIAL)
    return rows, columns


def enlarging(grid: Grid, cells: int, length: int) -> np.ndarray:
    """What each cell weighs at each pixel, float32 `[length, cells]`: linear between centres."""
    place = np.clip((np.arange(length) - grid.start) / grid.step, 0, cells - 1)
    weights = 1 - np.abs(place[:, None] - np.arange(cells)[None])
    return np.clip(weights, 0, None).astype(np.float32)


def _even(length: int, cells: int) -> Grid:
    return Grid(start=(length / cells - 1) / 2, step=length / cells)


def _walk(jaxpr: Any, inputs: Iterable[Grids | None]) -> list[Grids | None]:
    known: dict[Any, Grids | None] = dict(zip(jaxpr.invars, inputs))

    def read(atom: Any) -> Grids | None:
        return None if hasattr(atom, "val") else known.get(atom)

    for equation in jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        known.update(zip(equation.outvars, _through(equation, given)))
    return [read(atom) for atom in jaxpr.outvars]


def _through(equation: Any, given: list[Grids | None]) -> list[Grids | None]:
    """Where the outputs of an operation lie, if those of its inputs are known."""
    name, params = equation.primitive.name, equation.params
    inner = next((params[key] for key in _INNER if key in params), None)
    if inner is not None:
        return _walk(getattr(inner, "jaxpr", inner), given)
    shapes = [atom.aval.shape for atom in equation.outvars]
    own = next((grid for grid in given if grid is not None), None)
    if own is None or any(len(shape) != 4 for shape in shapes):
        return [None] * len(shapes)
    windows = [_window(name, params, equation, axis) for axis in (0, 1)]
    rows, columns = (grid.within(*window) for grid, window in zip(own, windows))
    return [(rows, columns)] * len(shapes)


def _window(name: str, params: Any, equation: Any, axis: int) -> tuple[int, int, int]:
    """Size, stride and padding before of an operation's windows along one of the sides."""
    side = _SPATIAL[axis]
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape[params["dimension_numbers"].rhs_spec[2 + axis]]
        size = (kernel - 1) * params["rhs_dilation"][axis] + 1
        return size, params["window_strides"][axis], params["padding"][axis][0]
    if name.startswith("reduce_window"):
        size, stride = params["window_dimensions"][side], params["window_strides"][side]
        return size, stride, params["padding"][side][0]
    if name == "pad":
        return 1, 1, params["padding_config"][side][0]
    if name == "slice":
        strides = params["strides"]
        return 1, 1 if strides is None else strides[side], -params["start_indices"][side]
    return 1, 1, 0
