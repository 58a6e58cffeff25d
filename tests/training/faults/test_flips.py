"""A thousand flipped bits, one at a time: each is noticed, and the step before is used."""

import random
import shutil

import pytest

from jtl.training.checkpoint import Checkpoints
from tests.training.faults import saving

FLIPS = 1000


def flip(path, rng):
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def notice(kept, folder, rng, step):
    """Flips a bit of a file of a step or, at random, of what its frozen leaves stand in."""
    shutil.copytree(kept, folder)
    parts = [folder / "checkpoints" / str(step), *(folder / "checkpoints").glob("frozen-*")]
    files = [path for part in parts for path in sorted(part.rglob("*")) if path.is_file()]
    path = rng.choice([path for path in files if path.stat().st_size])
    flip(path, rng)
    with Checkpoints(folder) as checkpoints:
        progress, lines = checkpoints.progress(), checkpoints.recover()
        later = checkpoints.progress()
    shutil.rmtree(folder)
    return path.relative_to(folder), progress, lines, later


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Two steps without frozen leaves, and a third with."""
    from jtl.training.saved_steps import Progress

    folder = tmp_path_factory.mktemp("kept")
    with Checkpoints(folder) as checkpoints:
        for step in saving.SAVED:
            checkpoints.save(saving.state(step), Progress(step=step, best_step=step))
        checkpoints.save(saving.state(3), Progress(step=3, best_step=2), saving.frozen())
    return folder


@pytest.mark.parametrize(
    "count", [10, pytest.param(FLIPS, marks=pytest.mark.soak)], ids=["few", "many"]
)
def test_every_flipped_bit_is_noticed(kept, tmp_path, count):
    rng = random.Random(5)
    for number in range(count):
        where, progress, lines, later = notice(kept, tmp_path / str(number), rng, 3)
        assert progress.step == later.step == 2, where
        assert len(lines) >= 1, where
        assert "damaged" in lines[0], where
