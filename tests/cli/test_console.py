"""What the terminal says of a cache."""

import io

import pytest
from rich.console import Console

from jtl.cli.console import Live, describe_cache
from jtl.training.events import Cached

KEPT = {
    "step": 0,
    "phase": 0,
    "stages": ("stem", "layer1", "layer4"),
    "examples": 1437,
    "views": 1,
    "bytes": 2_943_000,
    "where": "device",
    "share": 0.9973,
}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {},
            "stem..layer4 computed once for 1,437 images × 1 view, 2.9 MB on the device; each "
            "later epoch saves 99.7% of the forward",
        ),
        (
            {"stages": ("stem",), "views": 4, "where": "file", "share": None, "note": "found"},
            "stem computed once for 1,437 images × 4 views, 2.9 MB in a file (found)",
        ),
        (
            {"phase": 1, "where": None, "note": "each image is seen only once"},
            "none in phase 2: each image is seen only once",
        ),
    ],
)
def test_a_cache_is_described_in_one_line(changes, line):
    assert describe_cache(Cached(**{**KEPT, **changes})) == line


def test_a_reason_against_a_cache_is_said_once():
    console = Console(file=io.StringIO(), width=200)
    live = Live(console)
    for phase in range(3):
        live(Cached(step=phase, phase=phase, note="every image differs"))
    live(Cached(step=3, phase=3, note="another"))
    assert console.file.getvalue().splitlines() == [
        "cache    none in phase 1: every image differs",
        "cache    none in phase 4: another",
    ]
