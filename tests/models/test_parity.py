"""Every network computes what torchvision or Keras computed in float64 on the same tensors."""

from functools import lru_cache
from typing import Any

import jax
import numpy as np
import pytest

from jtl.models.registry import create_model
from jtl.models.staged import StagedNet
from jtl.tree import matches, unflatten
from jtl.weights.layouts.identify import LAYOUTS
from jtl.weights.layouts.transform import OI_TO_IO, Entry
from tests import golden
from tests.models.keras_rounding import apply_with_keras_rounding

# The bounds of relative L2 distance that the project promises.
TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
QUICK = ("torchvision-resnet18", "keras-ResNet50")
# More of the blocks that their shallower siblings have.
DEEP = ("ResNet101", "ResNet152", "resnet101", "resnet152", "VGG19", "vgg13", "vgg16", "vgg19")

# Where the peer's outputs are found in our networks, by the module that gives them.
KERAS_STAGES = {
    "conv2_block3_out": "layer1",
    "conv3_block4_out": "layer2",
    "conv4_block6_out": "layer3",
    "conv5_block3_out": "layer4",
    "post_relu": "layer4",
    "block5_pool": "block5",
    "mixed2": "mixed5",
    "mixed7": "mixed6",
    "mixed10": "mixed7",
}
TORCH_STAGES = {
    **{f"layer{i}": f"layer{i}" for i in range(1, 5)},
    "features": "block5",
    "Conv2d_2b_3x3": "stem/conv2b",
    "Mixed_5d": "mixed5",
    "Mixed_6e": "mixed6",
    "Mixed_7c": "mixed7",
}
PLACES = {**KERAS_STAGES, **TORCH_STAGES}
BEFORE_RELU = {"stem/conv2b"}  # whose ReLU the pool behind takes along


def cases(names: list[str]) -> list[Any]:
    return [pytest.param(name, marks=_marks(name)) for name in names]


def _marks(name: str) -> Any:
    if any(own in name.partition("_bn")[0] for own in DEEP):
        return pytest.mark.soak
    return () if name in QUICK else pytest.mark.slow


def rounds_in_float32(name: str) -> bool:
    """Whether the peer's float64 outputs carry float32 rounding: Keras's, where it has norms."""
    return name.startswith("keras-") and "VGG" not in name


@lru_cache(maxsize=1)
def peer(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    fixture = golden.load(name)
    return fixture, golden.state_dict(fixture["meta"])


def network(name: str, **fields: Any) -> StagedNet:
    source, arch, *_ = name.split("-")
    aux = {"aux_head": True} if arch == "inception_v3" else {}
    known = {"inceptionv3": "inception_v3"}
    arch = known.get(arch.lower(), arch.lower())
    return create_model(arch, variant=source, **aux, **fields)


def table(name: str, model: StagedNet) -> tuple[Entry, ...]:
    return LAYOUTS[name.split("-")[0]].entries(model)


def variables_of(name: str, dtype: str, entries: tuple[Entry, ...]) -> dict[str, Any]:
    _, tensors = peer(name)
    return unflatten(
        {e.destination: e.transform.forward(tensors[e.source]).astype(dtype) for e in entries}
    )


def distances(
    name: str,
    dtype: str,
    model: StagedNet,
    entries: tuple[Entry, ...],
    as_keras_rounds: bool = False,
) -> dict[str, float]:
    """Relative L2 distance from the peer's float64 to ours, for the logits and each output."""
    fixture, _ = peer(name)
    variables = variables_of(name, dtype, entries)
    images = golden.normalised(fixture["meta"], fixture["images"]).astype(dtype)
    wanted = {PLACES[output] for output in fixture["outputs"] if output != "logits"}

    def asked(module: Any, method: str) -> bool:
        return method == "__call__" and "/".join(module.path) in wanted

    with jax.enable_x64(dtype == "float64"):
        run = apply_with_keras_rounding if as_keras_rounds else _apply
        logits, state = run(name, model, variables, images, asked)
    ours = {}
    for place in wanted:
        captured = _captured(state, place)
        ours[place] = _pooled(np.maximum(captured, 0) if place in BEFORE_RELU else captured)
    ours["logits"] = np.asarray(logits)
    assert all(array.dtype == dtype for array in ours.values())
    return {
        output: float(np.linalg.norm(ours[PLACES.get(output, output)] - theirs))
        / float(np.linalg.norm(theirs))
        for output, theirs in fixture["outputs"].items()
    }


def _apply(name: str, model: StagedNet, variables: Any, images: np.ndarray, asked: Any) -> Any:
    @jax.jit
    def run(variables: Any, images: Any) -> Any:
        return model.apply(variables, images, capture_intermediates=asked, mutable=True)

    return run(variables, images)


def _captured(state: Any, place: str) -> np.ndarray:
    node = state["intermediates"]
    for part in (*place.split("/"), "__call__"):
        node = node[part]
    return np.asarray(node[0])


def _pooled(array: np.ndarray) -> np.ndarray:
    return array.mean((1, 2)) if array.ndim == 4 else array


def every_dtype(names: list[str]) -> list[Any]:
    # Float64 shows that the arithmetic is the peer's; float32, which is more forgiving, runs for
    # every commit on the quick networks alone.
    rare = [pytest.param(n, "float32", marks=pytest.mark.soak) for n in names if n not in QUICK]
    quick = [(name, "float32") for name in names if name in QUICK]
    exact = [pytest.param(*c.values, "float64", marks=c.marks) for c in cases(names)]
    # The dtypes of one network follow each other, so that its tensors are made once.
    return sorted([*rare, *quick, *exact], key=lambda c: getattr(c, "values", c)[0])


@pytest.mark.parametrize(("name", "dtype"), every_dtype(golden.names()))
def test_outputs_equal_the_peer_on_the_same_tensors(name: str, dtype: str) -> None:
    model = network(name)
    as_keras_rounds = dtype == "float64" and rounds_in_float32(name)
    found = distances(name, dtype, model, table(name, model), as_keras_rounds)
    assert max(found.values()) <= TOLERANCE[dtype], found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["keras-ResNet50", "keras-ResNet50V2", "keras-InceptionV3"])
def test_outputs_differ_by_no_more_than_the_rounding_of_keras(name: str) -> None:
    model = network(name)
    found = distances(name, "float64", model, table(name, model))
    assert 1e-9 < max(found.values()) <= 1e-6, found


@pytest.mark.slow
def test_both_heads_equal_the_peer_in_training_mode(x64: None) -> None:
    name = "training-inception_v3"
    fixture, _ = peer(name)
    model = create_model("inception_v3", aux_head=True)
    variables = variables_of(name, "float64", LAYOUTS["torchvision"].entries(model))
    images = golden.normalised(fixture["meta"], fixture["images"])
    collections = ["batch_stats", "aux_logits"]
    apply = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=collections))
    logits, state = apply(variables, images)
    for ours, output in ((logits, "logits"), (state["aux_logits"]["logits"], "aux")):
        theirs = fixture["outputs"][output]
        distance = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert distance <= TOLERANCE["float64"], output


@pytest.mark.parametrize("name", cases(golden.names()))
def test_every_tensor_of_the_peer_has_one_place_or_a_reason(name: str) -> None:
    shapes = golden.shapes(golden.load(name)["meta"])
    entries = table(name, network(name))
    layout = LAYOUTS[name.split("-")[0]]
    left = shapes.keys() - {entry.source for entry in entries}
    assert len({entry.source for entry in entries}) == len(entries)
    assert {entry.source for entry in entries} <= shapes.keys()
    assert [n for n in left if not any(matches(glob, n) for glob in layout.ignored)] == []


# The check itself must be able to fail.


def test_check_fails_with_the_epsilon_of_another_source() -> None:
    name = "torchvision-resnet18"
    model = network(name, epsilon=1e-3)
    found = distances(name, "float32", model, table(name, model))
    assert min(found.values()) > TOLERANCE["float32"], found


def test_check_fails_in_float64_with_an_epsilon_a_thousandth_off() -> None:
    name = "torchvision-resnet18"
    model = network(name, epsilon=1.001e-5)
    found = distances(name, "float64", model, table(name, model))
    assert min(found.values()) > TOLERANCE["float64"], found


def test_check_fails_with_the_stride_in_the_other_convolution() -> None:
    name = "keras-ResNet50"
    model = network(name, stride_in="conv2")
    found = distances(name, "float32", model, table(name, model))
    assert found["logits"] > TOLERANCE["float32"], found
    assert found["conv2_block3_out"] <= TOLERANCE["float32"], "that stage has no stride"


@pytest.mark.slow
def test_check_fails_with_the_stride_in_the_other_convolution_of_v1_5() -> None:
    name = "torchvision-resnet50"
    model = network(name, stride_in="conv1")
    assert distances(name, "float32", model, table(name, model))["logits"] > TOLERANCE["float32"]


@pytest.mark.slow
def test_check_fails_with_the_wrong_order_of_flattening() -> None:
    name = "torchvision-vgg11"
    model = network(name)
    entries = tuple(
        Entry(source=e.source, destination=e.destination, transform=OI_TO_IO)
        if e.destination == "params/classifier/fc1/kernel"
        else e
        for e in table(name, model)
    )
    found = distances(name, "float32", model, entries)
    assert found["logits"] > TOLERANCE["float32"], found
    assert found["features"] <= TOLERANCE["float32"], "the blocks come before the flattening"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "counted"), [("keras-InceptionV3", True), ("torchvision-inception_v3", False)]
)
def test_check_fails_with_padding_counted_the_other_way(name: str, counted: bool) -> None:
    model = network(name, count_padding=counted)
    found = distances(name, "float32", model, table(name, model))
    assert found["logits"] > TOLERANCE["float32"], found
