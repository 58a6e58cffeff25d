"""Our own layout: each leaf under its slash path, as it is."""

from jtl.models.inception import InceptionV3
from jtl.models.resnet import ResNet
from jtl.models.vgg import VGG
from jtl.weights.layouts.layout import Layout
from jtl.weights.layouts.transform import SAME

JTL = Layout(
    name="jtl",
    variants=("jtl", "torchvision", "keras"),
    source=lambda _, leaf: (leaf.path, SAME),
    ignored={},
    markers={
        "params/layer1/block0/conv1/kernel": ResNet,
        "params/block1/conv1/kernel": VGG,
        "params/stem/conv1a/conv/kernel": InceptionV3,
    },
    requires=lambda _: {},
)
