"""One reader a weight-file format, none of which runs code from the file."""

from jtl.weights.readers.read import read_weights
from jtl.weights.readers.weight_file import WeightFile, check_finite

__all__ = ["WeightFile", "check_finite", "read_weights"]
