"""The recipes of public datasets, made ready on drawn examples of the same classes and splits."""

import re
from pathlib import Path

import numpy as np
import pytest

from jtl.data.sources.arrays import ArraySource
from jtl.data.sources.tfds_find import check_name, parse_name
from jtl.experiment.options import read_config, recipes
from jtl.experiment.setup import set_up
from jtl.weights.catalogue import find_architectures

# The classes of each dataset, and which splits TFDS has it in.
SHAPES = {
    "cifar10": (10, ("train", "test")),
    "imagenette": (10, ("train", "val")),
    "oxford_flowers102": (102, ("train", "val", "test")),
    "oxford_iiit_pet": (37, ("train", "test")),
    "stanford_dogs": (120, ("train", "test")),
}
EXAMPLES = 20  # of each class and split


def drawn(classes, splits):
    labels = np.tile(np.arange(classes, dtype=np.int32), EXAMPLES * len(splits))
    size = classes * EXAMPLES
    return ArraySource(
        images=np.zeros((len(labels), 4, 4, 3), np.uint8),
        labels=labels,
        classes=tuple(map(str, range(classes))),
        splits={name: np.arange(size) + place * size for place, name in enumerate(splits)},
    )


def test_every_recipe_of_a_public_dataset_is_tested_here():
    named = {name for name, path in recipes().items() if "source: tfds:" in path.read_text()}
    assert named == set(SHAPES)


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_recipe_names_a_dataset_and_weights_that_there_are(name, tmp_path):
    config = read_config(name)
    assert config.name == name
    check_name(parse_name(config.data.source.removeprefix("tfds:")), tmp_path)
    known = {each.name for own in find_architectures("resnet50") for each in own.weights}
    assert config.model.weights in known


@pytest.mark.parametrize("name", sorted(SHAPES))
def test_a_recipe_says_its_source_its_command_and_what_to_expect(name):
    text = Path(recipes()[name]).read_text()
    for said in ("# Source: ", f"jtl train {name}\n", "# Expected: ", "# Published: "):
        assert said in text
    assert re.search(r"https?://", text)


@pytest.mark.parametrize(
    "name",
    ["imagenette", *(pytest.param(n, marks=pytest.mark.slow) for n in SHAPES if n != "imagenette")],
)
def test_a_recipe_is_made_ready(name, tmp_path):
    # The stages of ResNet-18 are those of ResNet-50.
    changes = ("model.name=resnet18", "model.weights=null", "data.threads=1")
    config = read_config(name, changes)
    classes, splits = SHAPES[name]
    setup = set_up(config, tmp_path / "run", drawn(classes, splits))
    assert len(setup.phases) == 2
    sizes = {split: len(own) for split, own in setup.examples.splits.items()}
    assert sizes["test"] == classes * EXAMPLES
    assert sizes["val"] > 0
    assert sum(sizes.values()) == classes * EXAMPLES * len(splits)
    assert setup.pretrained.variables["params"]["head"]["kernel"].shape[-1] == classes
