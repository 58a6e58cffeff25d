"""Augmentation on the device: pure functions of one image and that example's own key."""

from jtl.data.augment.chain import make_augment
from jtl.data.augment.options import AugmentOptions, RandAugmentOptions

__all__ = ["AugmentOptions", "RandAugmentOptions", "make_augment"]
