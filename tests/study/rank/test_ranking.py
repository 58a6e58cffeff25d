"""Ranking networks on images: what is looked at, what wins, and what is left out."""

import json
import shutil

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

import jtl
from jtl.cli import main
from jtl.data.options import DataOptions
from jtl.data.sources.bundled import digits
from jtl.data.splits import SplitOptions, make_splits
from jtl.errors import ConfigError, WeightsError
from jtl.experiment.options import read_config
from jtl.study.rank import rank
from jtl.study.rank.candidates import find_candidates
from jtl.study.rank.look import LateError, look_at
from jtl.study.rank.ranking import _share
from jtl.weights.fetch import find_source
from jtl.weights.save import save_weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two networks of one architecture, trained on glyphs and not at all, and a broken file."""
    path = tmp_path_factory.mktemp("weights")
    shutil.copy(find_source("glyphs").path, path / "trained.safetensors")
    random = jtl.load_model("resnet_mini", None, 62, rng=jax.random.key(0))
    save_weights(path / "random.safetensors", random.model, random.variables)
    (path / "broken.safetensors").write_bytes(b"no weights")
    return path


@pytest.fixture(scope="module")
def ranking(folder):
    return rank(DataOptions(source="digits"), folder=folder, images=120)


def test_the_network_that_knows_characters_wins(ranking):
    assert [own.candidate.name for own in ranking.ranked] == ["trained", "random"]
    trained, random = ranking.ranked
    for name, score in trained.scores.items():
        assert score.low < score.value < score.high
        assert score.value > random.scores[name].value, name
    assert set(trained.scores) == {"probe", "knn", "logme", "h_score", "leep"}
    assert list(ranking.skipped) == ["broken.safetensors"]


def test_every_stage_is_scored_in_the_networks_order(ranking):
    own = ranking.winner
    assert list(own.stages) == ["stem", "layer1", "layer2", "layer3"]
    assert own.last_stage == "layer3"
    assert own.stages[own.best_stage] == max(own.stages.values())
    assert own.stages["layer3"] == own.scores["probe"].value == max(own.path.values())


def test_costs_are_the_networks(ranking):
    look = ranking.winner.look
    expected = jtl.load_model("resnet_mini", "glyphs", rng=0)
    rest = {name: own for name, own in expected.variables["params"].items() if name != "head"}
    assert look.parameters == sum(leaf.size for leaf in jax.tree.leaves(rest))
    assert look.images_per_second > 0
    assert look.multiply_adds > look.parameters


def test_test_images_are_never_looked_at(folder, monkeypatch):
    seen = []
    source = digits()
    kept = type(source).__getitem__
    monkeypatch.setattr(
        type(source), "__getitem__", lambda self, index: seen.append(index) or kept(self, index)
    )
    split = SplitOptions(test=0.9, val=0.05)
    found = rank(DataOptions(split=split), folder=folder, source=source)
    splits = make_splits(source.labels, split, 0)
    assert found.examples == len(source) - len(splits["test"])
    assert seen
    assert not np.isin(splits["test"], seen).any()


def test_a_budget_leaves_out_what_would_not_end(folder):
    found = rank(DataOptions(source="digits"), folder=folder, images=60, budget=1e-6)
    assert len(found.ranked) == 1
    left = [why for why in found.skipped.values() if "minutes were over" in why]
    assert len(left) == 1


def test_a_candidate_that_is_too_slow_ends_by_the_pace_of_its_first_images(folder):
    candidates, _ = find_candidates(folder=folder)
    source = digits()
    with pytest.raises(LateError) as late:
        look_at(candidates[0], source, np.arange(1700), DataOptions(), until=0.0)
    assert late.value.seconds > 0


def test_the_command_writes_what_trains_the_winner(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["rank", "digits", "--weights", str(folder), "--images", "60"])
    assert not ended.value.code
    assert "next     jtl train rank/trained.yaml" in capsys.readouterr().out
    record = json.loads((tmp_path / "rank" / "rank.json").read_text())
    assert [own["name"] for own in record["ranked"]] == ["trained", "random"]
    config = read_config(str(tmp_path / "rank" / "trained.yaml"))
    assert config.model.weights == str(folder / "trained.safetensors")
    assert config.train.phases[0].freeze == "backbone"
    assert (tmp_path / "rank" / "rank.png").stat().st_size > 10_000


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.data())
def test_of_each_class_as_many_are_looked_at_as_its_share(counts, data):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    least = np.minimum(counts, 2)
    images = data.draw(st.integers(int(least.sum()), len(labels)))
    places = _share(labels, images, 0)
    assert len(np.unique(places)) == len(places) == images
    found = np.bincount(labels[places], minlength=len(counts))
    assert np.all(found >= least)
    wanted = images * np.array(counts) / len(labels)
    assert np.all((abs(found - wanted) < 2) | (found == least) | (least.sum() > wanted.sum() / 2))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(ConfigError, match="10 classes need 20"):
        rank(DataOptions(source="digits"), images=19)
    with pytest.raises(ConfigError, match="more than 0"):
        rank(DataOptions(source="digits"), budget=0)
    with pytest.raises(WeightsError, match="no such folder"):
        rank(DataOptions(source="digits"), folder=tmp_path / "none")
    with pytest.raises(WeightsError, match="holds no known weights"):
        rank(DataOptions(source="digits"), folder=tmp_path)
    with pytest.raises(WeightsError, match="resnet18"):
        rank(DataOptions(source="digits"), models=["resnet81"])
