"""The bundled backbone: what the file says of itself, and that its recipe makes such a file."""

import json
from pathlib import Path

import numpy as np
import pytest

import jtl
from jtl.experiment import load_run, train
from jtl.experiment.options import read_config
from jtl.export import export_safetensors
from jtl.tree import count
from jtl.weights.fetch import locate
from jtl.weights.readers import read_weights

FREE = {
    "OFL-1.1",
    "Apache-2.0",
    "Bitstream-Vera",
    "BSD",
    "MIT",
    "public domain",
    "GPL",
    "GPL with font exception",
    "AGPL with font exception",
}


def test_the_asset_is_small_and_every_tensor_is_accounted_for():
    assert Path(locate("glyphs")).stat().st_size <= 2**20
    pretrained = jtl.load_model("resnet_mini", weights="glyphs")
    assert count(pretrained.variables["params"]) <= 250_000
    assert set(pretrained.ledger.counts) == {"loaded"}
    assert pretrained.classes[:10] == tuple("0123456789")


def test_the_header_holds_recipe_result_and_licences():
    header = read_weights(locate("glyphs")).metadata
    assert "source: glyphs" in header["recipe"]
    assert 0 < json.loads(header["result"])["metrics"]["val"]["accuracy"] <= 1
    fonts = json.loads(header["provenance"])["provenance"]["fonts by licence"]
    assert set(fonts) <= FREE
    assert sum(map(len, fonts.values())) > 100
    assert any("DejaVu Sans" in font for names in fonts.values() for font in names)


def test_knows_digits_that_it_has_never_seen():
    run_like = jtl.load_model("resnet_mini", weights="glyphs")
    from jtl.data.sources.bundled import digits

    source = digits()
    images = run_like.preprocess(source.images[:400])
    logits = run_like.model.apply(run_like.variables, images)[:, :10]
    assert np.mean(np.argmax(logits, -1) == source.labels[:400]) > 0.8


@pytest.mark.slow
def test_the_recipe_makes_such_a_file(tmp_path):
    small = (
        "data.glyphs.fonts=[]",
        "data.glyphs.characters=0123456789AB",
        "data.glyphs.strokes=[0]",
        "data.batch_size=16",
        "train.phases.0.epochs=1",
        "data.split.val=0.25",
    )
    train(read_config("glyphs", small), workdir=tmp_path / "run")
    made = export_safetensors(load_run(tmp_path / "run"), tmp_path / "made.safetensors")
    header = read_weights(made).metadata
    assert set(header) >= set(read_weights(locate("glyphs")).metadata)
    again = jtl.load_model("resnet_mini", weights=made)
    assert again.classes == tuple("0123456789AB")
    np.testing.assert_array_equal(
        again.variables["params"]["head"]["bias"],
        load_run(tmp_path / "run").variables["params"]["head"]["bias"],
    )
