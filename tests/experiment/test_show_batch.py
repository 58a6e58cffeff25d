"""The picture of a batch: what the first step is given, with labels as they are mixed."""

import numpy as np
import pytest
from PIL import Image

from jtl.errors import ConfigError
from jtl.experiment.setup import set_up
from jtl.experiment.show_batch import _described, _first_batch, show_batch
from tests.experiment.runs import CLASSES, config, source


def test_a_picture_is_drawn_and_no_folder_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    count = show_batch(config(augment__mixup=0.5), tmp_path / "batch.png", source=source())
    assert count == 12
    assert [path.name for path in tmp_path.iterdir()] == ["batch.png"]
    drawn = np.asarray(Image.open(tmp_path / "batch.png").convert("RGB"))
    assert min(drawn.shape[:2]) > 300
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 100


def test_the_batch_is_that_of_the_first_step(tmp_path):
    setup = set_up(config(), tmp_path / "run", source())
    batch = _first_batch(setup)
    order = setup.examples.order(setup.config)
    np.testing.assert_array_equal(batch["example"], order[0])
    pixels = setup.pretrained.preprocess.restore(np.asarray(batch["image"]))
    plain = setup.examples.reader.gather(order[0])["image"].astype(int)
    # Mirrored or not, and a little noise, as the options say.
    either = [np.abs(plain[:, :, ::turn] - pixels).mean((1, 2, 3)) for turn in (1, -1)]
    assert np.minimum(*either).max() < 6
    assert (either[0] < 6).any()
    assert (either[1] < 6).any()


def test_labels_are_said_with_their_shares():
    assert _described(np.int32(2), CLASSES) == "cat"
    assert _described(np.array([0, 1, 0]), CLASSES) == "bee"
    assert _described(np.array([0.3, 0, 0.7]), CLASSES) == "0.70 cat\n0.30 ant"
    assert _described(np.array([0, 0, 0]), CLASSES) == "no label"
    assert _described(np.int32(0), ("x" * 99,)) == "x" * 21 + "…"


@pytest.mark.parametrize("name", ["no/such/folder.png", "batch.xyz"])
def test_a_path_that_cannot_be_written_is_a_mistake_of_the_user(tmp_path, name):
    with pytest.raises(ConfigError, match="the picture cannot be written to"):
        show_batch(config(), tmp_path / name, source=source())
