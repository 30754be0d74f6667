import io
from importlib import resources

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
import torch
from PIL import Image

from lite.expression_training import (
    FER_NAMES,
    evaluate_expression_net,
    learning_rate,
    read_faces,
    train_expression_net,
)
from tests.tolerance import assert_near
from vemoclap_batch.extractors.face_expression import find_faces
from vemoclap_batch.networks.expression import (
    CLASSES,
    ExpressionNet,
    crop_face,
    crop_square,
    load_expression_net,
    prepare,
    save_expression_net,
)

pytestmark = pytest.mark.numeric

WEIGHTS = resources.files("vemoclap_batch") / "weights" / "expression.safetensors"


@pytest.fixture(scope="module")
def net():
    torch.set_num_threads(1)
    return load_expression_net(str(WEIGHTS))


@pytest.fixture(scope="module")
def astronaut():
    """A smiling face, with the box that libfacedetection finds."""
    frame = skimage.data.astronaut()
    best = max(find_faces(frame), key=lambda row: row[4])
    assert best[4] > 80
    return frame, tuple(best[:4])


def noise(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 48), np.uint8)


def test_a_batch_gives_an_embedding_and_logits_per_face(net):
    with torch.inference_mode():
        embedding, logits = net(prepare(noise(5)))
    assert embedding.shape == (5, net.width)
    assert 64 <= net.width <= 256
    assert logits.shape == (5, len(CLASSES))
    assert embedding.dtype == logits.dtype == torch.float32


def test_no_faces_give_no_rows(net):
    with torch.inference_mode():
        embedding, logits = net(prepare([]))
    assert embedding.shape == (0, net.width)
    assert logits.shape == (0, 7)


def test_a_batch_equals_one_by_one(net):
    faces = prepare(noise(9))
    with torch.inference_mode():
        together = net(faces)
        alone = [torch.cat(outputs) for outputs in zip(*(net(face[None]) for face in faces), strict=True)]
    for batched, single in zip(together, alone, strict=True):
        torch.testing.assert_close(batched, single, atol=1e-5, rtol=0)


def test_a_mirrored_face_has_the_same_feature(net):
    faces = noise(3)
    with torch.inference_mode():
        plain, mirrored = net(prepare(faces))[0], net(prepare(faces[:, :, ::-1]))[0]
    torch.testing.assert_close(plain, mirrored, atol=1e-5, rtol=0)


def test_the_lighting_of_a_crop_does_not_matter():
    face = noise(1)[0] // 2
    brighter = face + np.uint8(60)
    torch.testing.assert_close(prepare([face]), prepare([brighter]), atol=1e-4, rtol=0)


def test_a_flat_crop_stays_finite():
    assert torch.equal(prepare(np.full((1, 48, 48), 77, np.uint8)), torch.zeros(1, 1, 48, 48))


def test_the_crop_of_a_real_face_holds_the_face(astronaut):
    frame, box = astronaut
    left, top, side = crop_square(box)
    # Eyes, nose and mouth of the astronaut in the frame, and where FER-2013 has them on average.
    marks = {"left eye": (202, 101), "right eye": (247, 103), "nose": (224, 124), "mouth": (224, 146)}
    usual = {"left eye": (0.3, 0.38), "right eye": (0.7, 0.38), "nose": (0.5, 0.57), "mouth": (0.5, 0.76)}
    for name, (x, y) in marks.items():
        assert ((x - left) / side, (y - top) / side) == pytest.approx(usual[name], abs=0.08), name
    assert crop_face(frame, box).shape == (48, 48)


def test_a_smile_is_joy(net, astronaut):
    with torch.inference_mode():
        logits = net(prepare([crop_face(*astronaut)]))[1]
    assert CLASSES[int(logits.argmax())] == "joy"


def test_the_crop_is_the_square_of_the_frame_in_grey():
    column = np.arange(200, dtype=np.uint8)
    frame = np.repeat(np.broadcast_to(column, (200, 200))[:, :, None], 3, 2).copy()  # grey rises by 1 per pixel
    box = (60, 50, 64, 80)
    left, _, side = crop_square(box)
    means = crop_face(frame, box).astype(float).mean(0)
    centres = round(left) + (np.arange(48) + 0.5) * round(side) / 48 - 0.5
    np.testing.assert_allclose(means, centres, atol=1)


@pytest.mark.parametrize("box", [(-30, -40, 60, 80), (80, 60, 60, 80), (-10, -10, 140, 140), (300, 300, 20, 20)])
def test_over_the_border_the_edge_is_repeated(box):
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 256, (100, 120, 3), np.uint8)
    pad = 400
    padded = np.pad(frame, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    shifted = (box[0] + pad, box[1] + pad, *box[2:])
    np.testing.assert_array_equal(crop_face(frame, box), crop_face(padded, shifted))


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (40, 50), (400, 500)])
def test_boxes_of_any_size_give_48_pixels(size):
    frame = np.random.default_rng(2).integers(0, 256, (600, 600, 3), np.uint8)
    crop = crop_face(frame, (30, 30, *size))
    assert crop.shape == (48, 48)
    assert crop.dtype == np.uint8


def test_weights_survive_saving(tmp_path, net):
    save_expression_net(net, tmp_path / "copy.safetensors")
    again = load_expression_net(tmp_path / "copy.safetensors")
    faces = prepare(noise(2))
    with torch.inference_mode():
        assert_near(again(faces)[1].numpy(), net(faces)[1].numpy())
    assert not again.training


def test_weights_of_other_classes_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, str(tmp_path / "other.safetensors"), metadata={"network": '{"classes": ["cat"]}'})
    with pytest.raises(ValueError, match="anger, disgust"):
        load_expression_net(tmp_path / "other.safetensors")


def test_missing_weights_are_reported(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_expression_net(tmp_path / "none.safetensors")


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def small_set(tmp_path):
    """Two easy classes: bright on the top half, bright on the bottom half."""
    rng = np.random.default_rng(3)
    rows = []
    for index in range(48):
        pixels = rng.integers(0, 80, (48, 48), np.uint8)
        name = ("happy", "sad")[index % 2]
        pixels[(slice(None, 24) if name == "happy" else slice(24, None))] += 150
        rows.append({"image": encoded(pixels), "label": name, "split": "train" if index < 32 else "validation"})
    path = tmp_path / "faces.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_faces_are_read_by_split(small_set):
    assert len(read_faces(small_set, "train")) == 32
    everything = read_faces(small_set)
    assert everything.pixels.shape == (48, 48, 48)
    assert [CLASSES[label] for label in everything.labels[:2]] == ["joy", "sadness"]


def test_an_unknown_label_or_an_empty_split_is_refused(tmp_path, small_set):
    with pytest.raises(ValueError, match="split test"):
        read_faces(small_set, "test")
    table = pa.table({"image": [encoded(noise(1)[0])], "label": ["bored"]})
    pq.write_table(table, tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match="bored"):
        read_faces(tmp_path / "bad.parquet")


def test_every_class_of_fer_has_a_name():
    assert sorted(FER_NAMES.values()) == sorted(CLASSES)


def test_evaluation_counts_every_row_without_a_split_column(tmp_path):
    pixels = noise(4)
    path = tmp_path / "plain.parquet"
    labels = ["happy", "sad", "fear", "neutral"]
    pq.write_table(pa.table({"image": [encoded(face) for face in pixels], "label": labels}), path)
    metrics = evaluate_expression_net(str(WEIGHTS), path)
    assert metrics["n"] == 4
    assert set(metrics["recall"]) == {"joy", "sadness", "fear", "neutral"}


def test_training_learns_and_a_resumed_run_ends_where_an_unbroken_one_does(tmp_path, small_set):
    class Interrupted(Exception):
        pass

    def stop_after_two(line):
        if line.startswith("epoch 2/"):
            raise Interrupted

    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    metrics = train_expression_net(small_set, whole, epochs=3, progress=lambda line: None)
    with pytest.raises(Interrupted):
        train_expression_net(small_set, broken, epochs=3, progress=stop_after_two)
    assert broken.with_suffix(".state").exists()
    resumed = train_expression_net(small_set, broken, epochs=3, progress=lambda line: None)
    assert resumed == metrics
    assert metrics["n"] == 16
    assert not broken.with_suffix(".state").exists()
    assert whole.read_bytes() == broken.read_bytes()


def test_the_rate_rises_then_falls_to_zero():
    rates = [learning_rate(step / 100) for step in range(101)]
    assert rates[0] == 0
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates[-1] == pytest.approx(0)


def test_the_network_is_small():
    net = ExpressionNet()
    assert sum(parameter.numel() for parameter in net.parameters()) < 1_500_000
    assert WEIGHTS.stat().st_size <= 4_000_000
