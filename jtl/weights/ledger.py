"""The ledger: what became of every tensor of a file and where every leaf of a model came from."""

import collections
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from jtl.errors import WeightsError
from jtl.tree import matches, nearest
from jtl.weights.layouts.transform import Entry

if TYPE_CHECKING:
    from rich.table import Table

Status = Literal["loaded", "matched", "initialised", "unused"]


class ShapeDtype(Protocol):
    """Anything that says its shape and dtype: an array or a `jax.ShapeDtypeStruct`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""

    @property
    def dtype(self) -> Any:
        """The type of the elements."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One tensor of the file, one leaf of the model, or the pair of both.

    Attributes:
        source: the tensor's name in the file; None where the file has none for this leaf.
        destination: the leaf's slash path in variables; None where the model has no use for it.
        transform: the change of layout between them, such as `OIHW→HWIO`.
        source_shape: the tensor's shape in the file.
        shape: the leaf's shape.
        source_dtype: the tensor's dtype in the file.
        dtype: the leaf's dtype.
        status: `loaded` as it is in the file; `matched`: the classes known to the file are kept
            and the others drawn at random; `initialised` at random; `unused` by the model.
        reason: why the status is anything but `loaded`.
    """

    source: str | None = None
    destination: str | None = None
    transform: str = ""
    source_shape: tuple[int, ...] | None = None
    shape: tuple[int, ...] | None = None
    source_dtype: str | None = None
    dtype: str | None = None
    status: Status = "loaded"
    reason: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ledger:
    """Where every tensor of a file went and every leaf of a model came from.

    Attributes:
        path: the file, `<memory>` for a pytree, or `<random>` where there were no weights.
        format: the file's format, such as `safetensors`.
        model: the registry's name of the model.
        layout: the name of the key table, such as `torchvision`.
        rows: one for each tensor of the file and each leaf of the model.
        notes: what else was decided: prefixes removed, the head, the preprocessing.
    """

    path: str
    format: str
    model: str
    layout: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def sources(self) -> dict[str, Row]:
        """The row of each tensor of the file, by its name there."""
        return {row.source: row for row in self.rows if row.source is not None}

    @property
    def destinations(self) -> dict[str, Row]:
        """The row of each leaf of the model, by its slash path in variables."""
        return {row.destination: row for row in self.rows if row.destination is not None}

    @property
    def counts(self) -> dict[str, int]:
        """How many rows have each status."""
        return dict(collections.Counter(row.status for row in self.rows))

    def summary(self) -> str:
        """One line: the file, the model, and how many tensors have each status."""
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        return f"{self.path} ({self.format}, {self.layout} layout) as {self.model}: {counts}"

    def to_json(self) -> str:
        """The whole ledger as JSON, one row a line."""
        head = {k: v for k, v in dataclasses.asdict(self).items() if k != "rows"}
        lines = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in self.rows]
        start = json.dumps(head, ensure_ascii=False)[:-1]
        return start + ', "rows": [\n' + ",\n".join(lines) + "\n]}\n"

    @classmethod
    def from_json(cls, text: str) -> "Ledger":
        """The ledger that `to_json` wrote.

        Raises:
            WeightsError: the text is no ledger.
        """
        try:
            values = json.loads(text)
            rows = tuple(_row_from(row) for row in values.pop("rows"))
            return cls(**{**values, "rows": rows, "notes": tuple(values["notes"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"this JSON is no ledger: {error!r}; write it again.") from error

    def table(self) -> "Table":
        """The ledger as a rich table, one row a tensor."""
        from rich.table import Table

        table = Table(title=self.summary(), title_justify="left", box=None, pad_edge=False)
        for name in ("tensor", "leaf", "transform", "shape", "dtype", "status"):
            table.add_column(name, overflow="fold")
        for row in self.rows:
            table.add_row(
                row.source or "-",
                row.destination or "-",
                row.transform,
                _arrow(row.source_shape, row.shape),
                _arrow(row.source_dtype, row.dtype),
                f"{row.status}: {row.reason}" if row.reason else row.status,
            )
        return table


def reconcile(
    entries: Sequence[Entry],
    tensors: Mapping[str, ShapeDtype],
    leaves: Mapping[str, ShapeDtype],
    *,
    ignored: Mapping[str, str],
    replaced: Mapping[str, tuple[Status, str]],
    where: str,
) -> tuple[Row, ...]:
    """Pairs every tensor with its leaf, or stops with everything that does not fit.

    Args:
        entries: the key table.
        tensors: the file's tensors by name.
        leaves: the model's leaves by slash path; a leaf's dtype is what it will be stored as.
        ignored: globs of tensor names that the model has no use for, and the reason.
        replaced: leaves that the file need not fit, with their status and the reason.
        where: the file and the model, for the message.

    Returns:
        A row for each entry, then one for each tensor that is not used.

    Raises:
        WeightsError: a leaf without a tensor, a tensor without a leaf, a shape or a dtype that
            does not fit; all of them, with the nearest names.
    """
    rows, problems = [], []
    used = {entry.source for entry in entries}
    spare = [name for name in tensors if name not in used]
    wanted = [entry.source for entry in entries if entry.source not in tensors]
    for entry in entries:
        leaf, tensor = leaves.get(entry.destination), tensors.get(entry.source)
        if leaf is None:
            problems.append(f"{entry.destination}: the key table names it, the model has it not")
            continue
        status, reason = replaced.get(entry.destination, ("loaded", ""))
        if tensor is None and status == "loaded":
            problems.append(
                f"{entry.destination}: its tensor {entry.source} is missing"
                f"{_nearest_names(entry.source, spare)}"
            )
        elif tensor is not None and entry.destination not in replaced:
            problems += _misfits(entry, tensor, leaf)
        rows.append(_row(entry, tensor, leaf, status, reason))
    for name in spare:
        reasons = [why for glob, why in ignored.items() if matches(glob, name)]
        if reasons:
            rows.append(_unused(name, tensors[name], reasons[0]))
        else:
            problems.append(f"{name}: no leaf takes this tensor{_nearest_names(name, wanted)}")
    problems += _table_faults(entries, leaves)
    if problems:
        raise WeightsError(
            f"{where}: {len(problems)} mismatches; nothing was loaded:\n  " + "\n  ".join(problems)
        )
    return tuple(rows)


def random_rows(leaves: Mapping[str, ShapeDtype], reason: str) -> tuple[Row, ...]:
    """The rows of a model whose every leaf is drawn at random."""
    return tuple(
        Row(
            destination=path,
            shape=tuple(leaf.shape),
            dtype=str(leaf.dtype),
            status="initialised",
            reason=reason,
        )
        for path, leaf in leaves.items()
    )


def is_real_float(dtype: Any) -> bool:
    """Whether weights may have this dtype: a float of 16 bits or more, bfloat16 included."""
    dtype = np.dtype(dtype)
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _row(
    entry: Entry, tensor: ShapeDtype | None, leaf: ShapeDtype, status: Status, reason: str
) -> Row:
    return Row(
        source=None if tensor is None else entry.source,
        destination=entry.destination,
        transform="" if tensor is None or status == "initialised" else entry.transform.name,
        source_shape=None if tensor is None else tuple(tensor.shape),
        shape=tuple(leaf.shape),
        source_dtype=None if tensor is None else str(tensor.dtype),
        dtype=str(leaf.dtype),
        status=status,
        reason=reason,
    )


def _unused(name: str, tensor: ShapeDtype, reason: str) -> Row:
    return Row(
        source=name,
        source_shape=tuple(tensor.shape),
        source_dtype=str(tensor.dtype),
        status="unused",
        reason=reason,
    )


def _misfits(entry: Entry, tensor: ShapeDtype, leaf: ShapeDtype) -> Iterator[str]:
    given, needed = tuple(tensor.shape), tuple(leaf.shape)
    if not is_real_float(tensor.dtype):
        yield (
            f"{entry.source}: is {tensor.dtype}, and {entry.destination} takes float16, bfloat16, "
            "float32 or float64; save the weights unquantised"
        )
    became = transformed_shape(entry, given)
    if became == needed:
        return
    shown = "cannot be brought" if became is None else f"becomes {list(became)}"
    line = f"{entry.source}: {list(given)} {shown} by {entry.transform.name}, but "
    line += f"{entry.destination} is {list(needed)}"
    if given == needed:
        line += "; it has that shape already: the file's tensors are in another layout's order"
    elif sorted(given) == sorted(needed):
        line += "; the same axes in another order: the file's tensors are in another layout"
    yield line


def transformed_shape(entry: Entry, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shape that a tensor has after the entry's transform; None where it cannot be applied."""
    # One element seen through strides of zero: no memory, however large the shape.
    phantom = np.broadcast_to(np.zeros((), np.uint8), shape)
    try:
        return tuple(entry.transform.forward(phantom).shape)
    except (ValueError, IndexError):
        return None


def _table_faults(entries: Sequence[Entry], leaves: Mapping[str, ShapeDtype]) -> Iterator[str]:
    destinations = collections.Counter(entry.destination for entry in entries)
    for path in leaves:
        if path not in destinations:
            yield f"{path}: the key table has no tensor for this leaf"
    for path, times in destinations.items():
        if times > 1:
            yield f"{path}: the key table gives it {times} tensors"


def _nearest_names(name: str, candidates: Sequence[str]) -> str:
    # Names differ in a layer's number or a suffix: far too many candidates are no help to anyone.
    close = nearest(name, candidates[:400], 2)
    return f" (nearest: {', '.join(close)})" if close else ""


def _arrow(before: Any, after: Any) -> str:
    shown = [
        "×".join(map(str, value)) or "scalar" if isinstance(value, tuple) else str(value)
        for value in (before, after)
        if value is not None
    ]
    return shown[0] if len(set(shown)) == 1 else " → ".join(shown)


def _row_from(values: Mapping[str, Any]) -> Row:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Row(**fields)
