"""Tables of image files as they stand in CSV and Parquet: their cells, by column."""

import csv
import dataclasses
import difflib
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl.data.sources.listing import first_of, read_regular
from jtl.data.sources.names import shown
from jtl.errors import DataError

COLUMNS = ("path", "label", "labels", "split", "group")
Cell = str | list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A manifest's cells, by column.

    Attributes:
        columns: the cells of each column that is known; empty cells as an empty text or list.
        lines: where each row stands in the file, from 1.
        ignored: the names of other columns.
        problems: rows that could not be read.
    """

    columns: Mapping[str, Sequence[Cell]]
    lines: Sequence[int]
    ignored: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def read_table(path: Path, group: str = "group") -> Table:
    """A manifest's cells.

    Args:
        group: the name of the column that is known as `group`.
        path: a `.csv` in UTF-8 with a header, parted by commas, semicolons or tabs; or a
            `.parquet`.

    Raises:
        DataError: it cannot be read, or its columns do not say what they must.
    """
    reader = _READERS.get(path.suffix.lower(), _unknown_format)
    return reader(path, shown(str(path)), group)


def _read_csv(path: Path, where: str, group: str) -> Table:
    # Names of files may hold any bytes; those that are not UTF-8 survive this way.
    text = _bytes_of(path, where).decode("utf-8-sig", "surrogateescape")
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows, lines = [], []
    try:
        header = _renamed([name.strip() for name in next(reader, [])], group, where)
        start = reader.line_num + 1
        for row in reader:
            if row:
                rows.append(row)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{where}, line {reader.line_num}: {error}.") from error
    _check_header(header, where)
    odd = [str(line) for line, row in zip(lines, rows) if len(row) != len(header)]
    misfits = f"rows have not {len(header)} cells, as the header has: lines {first_of(odd)}"
    fitting = [(line, row) for line, row in zip(lines, rows) if len(row) == len(header)]
    known = {name: place for place, name in enumerate(header) if name in COLUMNS}
    return Table(
        columns={
            name: [row[place].strip() if name != "path" else row[place] for _, row in fitting]
            for name, place in known.items()
        },
        lines=[line for line, _ in fitting],
        ignored=tuple(shown(name) for name in header if name not in known),
        problems=(misfits,) if odd else (),
    )


def _read_parquet(path: Path, where: str, group: str) -> Table:
    import pyarrow
    import pyarrow.parquet

    data = _bytes_of(path, where)
    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        stored = table.schema_arrow.names
        header = _renamed(stored, group, where)
        _check_header(header, where)
        known = [name for name in header if name in COLUMNS]
        names = dict(zip(header, stored))
        cells = table.read(columns=[names[name] for name in known]).to_pydict()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{where} cannot be read as Parquet: {shown(str(error))}.") from error
    columns = {name: [_as_cell(cell) for cell in cells[names[name]]] for name in known}
    nested = [
        name
        for name, own in columns.items()
        if name != "labels" and any(isinstance(cell, list) for cell in own)
    ]
    if nested:
        raise DataError(f"{where}: {' and '.join(nested)} hold lists, which only labels may hold.")
    return Table(
        columns=columns,
        lines=range(1, table.metadata.num_rows + 1),
        ignored=tuple(shown(name) for name in header if name not in known),
    )


def _unknown_format(path: Path, where: str, group: str) -> Table:
    del group
    raise DataError(f"{where}: a manifest is a .csv or a .parquet file, not {path.suffix!r}.")


_READERS: Mapping[str, Callable[[Path, str, str], Table]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}


def _renamed(header: Sequence[str], group: str, where: str) -> list[str]:
    """The header with the column that groups called `group`, and another of that name not."""
    if group == "group":
        return list(header)
    if group not in header:
        listed = ", ".join(shown(name) for name in header) or "nothing"
        raise DataError(
            f"{where}: there is no column {shown(group)!r} to group by; the header holds {listed}."
        )
    return [{group: "group", "group": "group (not used)"}.get(name, name) for name in header]


def _bytes_of(path: Path, where: str) -> bytes:
    try:
        return read_regular(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{where}: this manifest cannot be read ({reason}).") from error


def _as_cell(value: Any) -> Cell:
    if isinstance(value, list):
        return [str(each) for each in value if each is not None]
    return "" if value is None else str(value)


def _check_header(header: Sequence[str], where: str) -> None:
    """Refuses a table whose columns do not say what they must."""
    problems = []
    twice = [name for name, count in Counter(header).items() if count > 1 and name in COLUMNS]
    if twice:
        problems.append(f"the column {first_of(twice)} stands there twice")
    if "path" not in header:
        problems.append(f"the column path is missing{_near('path', header, 0.5)}")
    if "label" in header and "labels" in header:
        problems.append("there are both label and labels; keep one of them")
    elif "label" not in header and "labels" not in header:
        problems.append(f"the column label (or labels) is missing{_near('label', header, 0.5)}")
    # Other columns are left alone, but for those that can only be a slip.
    slips = {name: _near(name, header, 0.75) for name in ("split", "group") if name not in header}
    problems += [
        f"the column {name} stands there misspelt{how}" for name, how in slips.items() if how
    ]
    if problems:
        listed = ", ".join(shown(name) for name in header) or "nothing"
        raise DataError(f"{where}: {'; '.join(problems)}; the header holds {listed}.")


def _near(name: str, header: Sequence[str], cutoff: float) -> str:
    """Which column of the header may be meant, to follow a statement; or nothing."""
    others = {column.lower(): column for column in header if column not in COLUMNS}
    near = difflib.get_close_matches(name, others, 1, cutoff)
    return f" (is {shown(others[near[0]])!r} meant?)" if near else ""
