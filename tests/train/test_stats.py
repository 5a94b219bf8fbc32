"""Additive statistics."""

import numpy as np
import pytest

from jaxvae.stats import Mean, Sum, accumulate, compute, merge, scalars
from jaxvae.train.recorder import dump_stats, load_stats


def test_a_mean_does_not_depend_on_how_values_were_cut():
    values = np.array([1.0, 2.0, 30.0, 4.0])
    whole = {"x": Mean.of(values)}
    parts = merge({"x": Mean.of(values[:1])}, {"x": Mean.of(values[1:])})
    assert compute(parts)["x"] == pytest.approx(float(compute(whole)["x"]))
    # The mean of the two means would be another number.
    assert (values[:1].mean() + values[1:].mean()) / 2 != pytest.approx(values.mean())


def test_masked_values_do_not_count_even_when_they_are_not_finite():
    values = np.array([[1.0, np.nan], [3.0, np.inf]])
    assert Mean.of(values, np.array([[True, False], [True, False]])).compute() == 2.0
    # A mask over the leading axes is repeated over the others.
    vector = Mean.of(np.array([[1.0, 2.0], [5.0, 6.0]]), np.array([True, False]), axis=0)
    np.testing.assert_array_equal(vector.compute(), [1.0, 2.0])


def test_a_mask_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="does not lead"):
        Mean.of(np.zeros((2, 3)), np.ones(3, bool))


def test_nothing_counted_is_not_zero():
    assert np.isnan(Mean.of(np.ones(2), np.zeros(2, bool)).compute())


def test_accumulation_is_that_of_one_merge_and_fetches_late():
    events = []

    def results():
        for i in range(3):
            events.append(f"made {i}")
            yield {"row": {"a": Mean(Spy(i, events), np.float32(1)), "h": Sum(np.array([i, 1.0], np.float32))}}

    class Spy:
        """A device's number that tells when it is fetched."""

        def __init__(self, value, events):
            self.value, self.events = value, events

        def __array__(self, dtype=None, copy=None):
            self.events.append(f"fetched {self.value}")
            return np.asarray(self.value, dtype)

    total = accumulate(results())["row"]
    assert total["a"].compute() == 1 and total["h"].total.tolist() == [3, 3]
    order = list(dict.fromkeys(events))
    assert order == ["made 0", "made 1", "fetched 0", "made 2", "fetched 1", "fetched 2"]
    assert accumulate([]) is None


def test_different_names_do_not_merge():
    with pytest.raises(ValueError, match="names"):
        merge({"a": Sum(1)}, {"b": Sum(1)})


def test_scalars_leave_vectors_out():
    stats = {"loss": Mean.of(np.ones(3)), "vector": Mean.of(np.ones((3, 2)), axis=0)}
    assert scalars(stats, "val/") == {"val/loss": 1.0}


def test_an_open_interval_survives_json_exactly():
    import json

    stats = {"a": Mean(np.float32(0.1), np.float32(3)), "h": Sum(np.array([1 / 3, 2.0], np.float32))}
    again = load_stats(json.loads(json.dumps(dump_stats(stats))))
    assert again["a"].total == stats["a"].total and again["a"].weight == 3
    np.testing.assert_array_equal(again["h"].total, stats["h"].total)
