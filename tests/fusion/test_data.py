"""Order, splits and samples depend on the key and the video alone; memory-mapped features are those in memory."""

import numpy as np
import pytest

from vemoclap_batch.fusion.data import (
    Examples,
    MemmapFeatures,
    batches,
    chunks,
    keyed_order,
    statistics,
    to_tensors,
    validation_rows,
)
from vemoclap_batch.fusion.spec import FeatureSpec, FusionSpec

SHAPE = FusionSpec(features={"face": FeatureSpec(width=2, length=4, sequence=True)}, d_model=8, heads=2)


@pytest.fixture
def examples():
    rng = np.random.default_rng(0)
    face = [rng.normal(size=(int(length), 2)).astype(np.float32) for length in rng.integers(0, 12, 40)]
    return Examples([f"v{row}" for row in range(40)], {"face": face}, rng.integers(0, 3, 40))


def test_an_epoch_has_every_video_once_in_an_order_of_its_own():
    ids = [f"v{row}" for row in range(70)]
    first, again, later, other = (
        list(batches(ids, 32, seed, epoch)) for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert [len(rows) for rows in first] == [32, 32, 6]
    assert sorted(np.concatenate(first)) == list(range(70))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    for different in (later, other):
        assert (np.concatenate(first) != np.concatenate(different)).mean() > 0.8


def test_the_order_belongs_to_the_ids_whatever_row_they_are_in():
    ids = [f"v{row}" for row in range(30)]
    shuffled = ids[::-1]
    assert [ids[row] for row in keyed_order(ids, 1, 5)] == [shuffled[row] for row in keyed_order(shuffled, 1, 5)]


def test_validation_is_a_share_of_each_label():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    ids = [f"v{row}" for row in range(100)]
    held = validation_rows(ids, labels, 0.1, seed=1)
    assert np.bincount(labels[held]).tolist() == [5, 3, 2]
    assert not np.array_equal(held, validation_rows(ids, labels, 0.1, seed=2))
    backwards = validation_rows(ids[::-1], labels[::-1], 0.1, seed=1)
    assert {ids[row] for row in held} == {ids[::-1][row] for row in backwards}


def test_sampled_frames_are_sorted_and_belong_to_the_video_and_epoch(examples):
    examples.features["face"] = [np.arange(24, dtype=np.float32).reshape(12, 2) for _ in examples.ids]
    alone = to_tensors(examples.subset([7]), SHAPE, epoch=3, seed=1)["face"][0]
    among = to_tensors(examples.subset([1, 7, 9]), SHAPE, epoch=3, seed=1)["face"][1]
    assert (alone == among).all()
    assert (alone[1:, 0] > alone[:-1, 0]).all()
    epochs = {tuple(to_tensors(examples.subset([7]), SHAPE, epoch, 1)["face"][0, :, 0].tolist()) for epoch in range(20)}
    assert len(epochs) > 10


def test_statistics_go_over_all_chunks(examples):
    arrays = [array for array in examples.features["face"] if len(array)]
    everything = np.concatenate(arrays)
    assert statistics(examples, ["face"])["face"] == (everything.min(), everything.max())
    assert statistics(examples.subset([]), ["face"]) == {"face": (0.0, 1.0)}
    assert [len(rows) for rows in chunks(600)] == [256, 256, 88]


def test_memory_mapped_features_are_what_was_put_in_whatever_the_order(examples):
    features, there = MemmapFeatures(40, 2), [int(video) for video in np.random.default_rng(1).permutation(40)[:30]]
    for video in there:
        features.put(video, examples.features["face"][video])
    mapped = Examples(examples.ids, {"face": features.arrays()}, examples.labels)
    rows = [39, 0, 0, 17]
    for given in (mapped.subset(rows), mapped.part([39, 0, 17]).subset([0, 1, 1, 2])):
        assert given.ids == ["v39", "v0", "v0", "v17"]
        assert (given.labels == examples.labels[rows]).all()
        for row, array in zip(rows, given.features["face"], strict=True):
            expected = examples.features["face"][row] if row in there else np.zeros((0, 2), np.float32)
            np.testing.assert_array_equal(array, expected)


def test_memory_mapped_features_that_are_all_missing_are_empty():
    assert [array.shape for array in MemmapFeatures(2, 7).arrays()] == [(0, 7), (0, 7)]
