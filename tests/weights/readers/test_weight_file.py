import ml_dtypes
import numpy as np
import pytest

from jtl.errors import WeightsError
from jtl.weights.readers import WeightFile, check_finite
from jtl.weights.readers.weight_file import check_expansion, size_limit

FLOATS = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2]


def weights(**tensors):
    return WeightFile(path="a.npz", format="npz", tensors=tensors)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_with_their_count(dtype, value):
    bad = np.ones((2, 3)).astype(dtype)
    bad[1, 1] = value
    with pytest.raises(WeightsError) as caught:
        check_finite(weights(good=np.ones(3, dtype), bad=bad, worse=np.full(2, np.nan)))
    said = str(caught.value)
    assert "a.npz: NaN or infinity in 2 of 3 tensors" in said
    assert "bad: 1 of 6 values" in said
    assert "worse: 2 of 2 values" in said
    assert "good" not in said


@pytest.mark.parametrize("dtype", [*FLOATS, np.int64, np.bool_, np.complex64])
def test_finite_values_pass(dtype):
    check_finite(weights(a=np.ones((2, 3)).astype(dtype), empty=np.zeros(0).astype(dtype)))


def test_finite_values_whose_sum_overflows_pass():
    check_finite(weights(a=np.full(4, np.finfo(np.float32).max)))


def test_infinities_that_would_cancel_are_found():
    with pytest.raises(WeightsError, match="2 of 2 values"):
        check_finite(weights(a=np.array([np.inf, -np.inf])))


def test_the_limit_on_expansion_lets_itself_through_and_no_more():
    check_expansion("a.npz", 100, size_limit(100))
    with pytest.raises(WeightsError, match="holds 100 bytes but asks for"):
        check_expansion("a.npz", 100, size_limit(100) + 1)
