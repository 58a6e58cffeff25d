import pytest

from jtl.models.registry import create_model
from jtl.weights.layouts.keras import KERAS
from tests import golden


def sources(name: str) -> dict[str, str]:
    model = create_model(name, variant="keras")
    return {entry.destination: entry.source for entry in KERAS.entries(model)}


def test_residual_blocks_count_from_one_and_the_stem_is_the_first_stage():
    found = sources("resnet50")
    assert found["params/stem/conv/bias"] == "conv1_conv/bias"
    assert found["params/layer1/block0/downsample_conv/kernel"] == "conv2_block1_0_conv/kernel"
    assert found["params/layer4/block2/bn3/scale"] == "conv5_block3_3_bn/gamma"
    assert found["batch_stats/layer2/block1/bn1/var"] == "conv3_block2_1_bn/moving_variance"
    assert found["params/head/kernel"] == "predictions/kernel"


def test_norms_before_and_after_the_blocks_of_v2_have_their_names():
    found = sources("resnet50v2")
    assert found["params/layer3/block0/preact_bn/bias"] == "conv4_block1_preact_bn/beta"
    assert found["params/layer4/post_bn/scale"] == "post_bn/gamma"


def test_inception_numbers_follow_the_making():
    found = sources("inception_v3")
    assert found["params/stem/conv1a/conv/kernel"] == "conv2d/kernel"
    assert found["params/mixed5/b/branch1x1/conv/kernel"] == "conv2d_5/kernel"
    assert found["params/mixed6/a/branch3x3/conv/kernel"] == "conv2d_26/kernel"
    assert found["params/mixed7/c/branch_pool/bn/bias"] == "batch_normalization_93/beta"


@pytest.mark.parametrize("fixture", [n for n in golden.names() if n.startswith("keras-VGG")])
def test_vgg_table_is_exactly_the_peers(fixture):
    meta = golden.load(fixture)["meta"]
    assert set(sources(meta["arch"].lower()).values()) == set(golden.shapes(meta))
