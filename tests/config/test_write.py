import dataclasses
import math

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.config import Document, build, difference, digest, json_schema, read_document, to_yaml
from tests.config.options import Adamw, Phase, Sgd, Train, Whole

rates = st.floats(min_value=1e-30, max_value=1e30)
phases = st.builds(
    Phase,
    epochs=st.integers(1, 10**20),
    freeze=st.text(st.characters(exclude_categories=["Cs"]))
    | st.lists(st.sampled_from(["stem", "no", "1e-3", "a: b"])).map(tuple),
    limit=st.floats(allow_nan=False),
)
wholes = st.builds(
    Whole,
    train=st.builds(
        Train,
        phases=st.lists(phases, max_size=3).map(tuple),
        optimizer=st.builds(Sgd, rate=rates) | st.builds(Adamw, rate=rates),
        tagged=st.just(Adamw()),
    ),
    name=st.text(st.characters(exclude_categories=["Cs"])),
    class_weights=st.dictionaries(st.integers(), rates, max_size=3),
    schedule=st.none() | st.just("auto") | rates,
)


@settings(deadline=None, max_examples=50)
@given(whole=wholes)
def test_yaml_builds_an_equal_instance_again(tmp_path_factory, whole):
    path = tmp_path_factory.mktemp("written") / "config.yaml"
    path.write_text(to_yaml(whole), encoding="utf-8")
    again = build(Whole, read_document(path))
    assert again == whole
    assert to_yaml(again) == to_yaml(whole)
    assert digest(again) == digest(whole)


def test_yaml_shows_every_option_with_its_default():
    text = to_yaml(Whole())
    assert text.startswith("train:\n  phases:\n  - epochs: 1\n    freeze: backbone\n")
    assert "\n  batch_size: 8\n" in text
    assert "\nmean: [0.5]\n" in text


def test_yaml_is_read_the_same_by_another_reader():
    whole = Whole(name="1e-3", train=Train(optimizer=Sgd(rate=1e-7), phases=()))
    values = yaml.safe_load(to_yaml(whole))
    assert build(Whole, Document(values=values)) == whole


def test_digest_is_the_same_for_equal_instances():
    by_hand = Train(optimizer=Adamw(rate=1))
    built = build(Train, Document(values={"optimizer": {"kind": "adamw", "rate": 1.0}}))
    assert digest(by_hand) == digest(built)


def test_digest_changes_with_any_option():
    assert len({digest(Whole(seed=seed)) for seed in range(4)}) == 4
    assert digest(Whole(train=Train(phases=()))) != digest(Whole())


def test_difference_names_each_option_with_both_values():
    other = Whole(
        seed=3,
        train=Train(phases=(Phase(epochs=2, freeze=("stem",)), Phase(epochs=1, limit=math.inf))),
    )
    assert difference(Whole(), other) == [
        "train.phases[0].epochs: 1 → 2",
        'train.phases[0].freeze: "backbone" → nothing',
        "seed: 0 → 3",
        'train.phases[0].freeze[0]: nothing → "stem"',
        "train.phases[1].epochs: nothing → 1",
        'train.phases[1].freeze: nothing → "backbone"',
        "train.phases[1].clip: nothing → null",
        "train.phases[1].limit: nothing → Infinity",
    ]


def test_difference_of_equal_instances_is_empty():
    assert difference(Whole(), Whole()) == []


def test_schema_lists_every_option_and_allows_no_other():
    schema = json_schema(Whole)
    definitions = schema["$defs"]
    assert schema["$ref"] == "#/$defs/Whole"
    assert schema["$schema"].startswith("https://json-schema.org/")
    for cls in (Whole, Train, Phase, Sgd, Adamw):
        described = definitions[cls.__name__]
        assert described["additionalProperties"] is False
        assert set(described["properties"]) == {field.name for field in dataclasses.fields(cls)}
    assert definitions["Phase"]["required"] == ["epochs"]
    assert definitions["Sgd"]["properties"]["rate"]["exclusiveMinimum"] == 0


def test_schema_describes_options_by_their_docstrings():
    sgd = json_schema(Whole)["$defs"]["Sgd"]
    assert sgd["description"] == "Stochastic gradient descent."
    described = {name: option["description"] for name, option in sgd["properties"].items()}
    assert described == {
        "kind": "which optimizer.",
        "rate": "the learning rate at its peak, before any schedule.",
        "momentum": "fraction in [0, 1).",
    }
