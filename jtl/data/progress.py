"""What a user sees of long work on a dataset."""

import sys
from collections.abc import Iterable
from typing import TypeVar

Item = TypeVar("Item")
_MANY = 10_000  # examples are read in seconds, so that somebody may wonder


def told(items: Iterable[Item], count: int, examples: int, what: str) -> Iterable[Item]:
    """The same items, with a bar on a terminal and a line elsewhere if it takes long.

    Args:
        items: what is worked through.
        count: how many items.
        examples: how many examples they stand for.
        what: is being done.
    """
    if examples < _MANY:
        return items
    if not sys.stderr.isatty():
        print(f"jtl: {what} ({examples:,} examples)", file=sys.stderr, flush=True)
        return items
    from rich.console import Console
    from rich.progress import track

    return track(items, what, total=count, console=Console(stderr=True), transient=True)
