import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from tests.extractors.conftest import broken_clip, frames_clip
from tests.extractors.tiny_faces import WIDTH, alone, tiny_onnx, tiny_vit, tiny_yolo
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.faces import TILTED
from vemoclap_batch.extractors.upright import off_upright, turn_of, upright_patch
from vemoclap_batch.extractors.yolo_face import CPU_FACES, NAMES, VitExpression, YoloFace, YoloFaceSettings, cut
from vemoclap_batch.models.hashes import NotAccepted
from vemoclap_batch.models.references import locate
from vemoclap_batch.models.verify import accept
from vemoclap_batch.networks.expression import CLASSES

pytestmark = pytest.mark.numeric

DETECTOR, EXPRESSIONS = "hf:tiny/faces/model.pt", "hf:tiny/expressions"


@pytest.fixture(scope="module")
def models(tmp_path_factory, astronaut):
    """A models folder with a detector that was accepted and an expression model."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "tiny" / "faces").mkdir(parents=True)
    tiny_yolo(folder / "tiny" / "faces" / "model.pt", astronaut)
    tiny_vit(folder / "tiny" / "expressions")
    assert accept(folder, [DETECTOR])
    return folder


def build(models, **changes):
    settings = YoloFaceSettings(
        **{"detector": DETECTOR, "expressions": EXPRESSIONS, "width": WIDTH, "image_size": 320} | changes
    )
    found = {name: locate(reference, models) for name, reference in YoloFace.references(settings).items()}
    return YoloFace(settings, Resources(models=found))


@pytest.fixture(scope="module")
def faces(models):
    return build(models)


@pytest.fixture(scope="module")
def clips(astronaut):
    """Clips of three sizes, upright and wide, with plain frames between; one clip has no frames."""
    wide = cv2.resize(astronaut[100:420], (320, 200))
    upright = cv2.resize(astronaut[:, 100:400], (150, 260))
    plain = np.full_like(wide, 114)
    return [
        frames_clip(wide, plain, np.roll(wide, 70, 1), plain),
        frames_clip(),
        frames_clip(upright, upright[::-1].copy()),
        frames_clip(np.full((64, 64, 3), 114, np.uint8)),
        frames_clip(wide[:, ::-1].copy(), plain),
    ]


def test_batches_equal_the_plain_way_one_by_one(models, faces, clips):
    results = faces.extract(clips)
    counts = []
    for clip, result in zip(clips, results, strict=True):
        feature, seen, rows = alone(models, clip, faces.settings)
        assert isinstance(result, Result)
        np.testing.assert_allclose(result.feature, feature, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(result.start_s, seen)
        np.testing.assert_array_equal(result.end_s, seen)
        assert result.feature.dtype == np.float32
        pa.array([result.extras["faces"]], faces.columns["faces"])
        for face, (number, area, left, top, score, _, name, probability) in zip(
            result.extras["faces"], rows, strict=True
        ):
            assert face["frame"] == number
            assert face["time_s"] == clip.frame_times[number]
            assert face["expression"] == name
            np.testing.assert_allclose(
                [face["w"] * face["h"], face["x"], face["y"], face["score"], face["probability"]],
                [area, left, top, score, probability],
                rtol=1e-4,
                atol=1e-3,
            )
        counts += [sum(row[0] == number for row in rows) for number in range(len(clip.frames))]
    # What the test is about did occur: frames without faces, and with more of them than are averaged.
    assert 0 in counts
    assert max(counts) > 2
    found = [face for result in results for face in result.extras["faces"]]
    assert len({face["expression"] for face in found}) > 2
    assert any(face["x"] == 0 for face in found), "no face at the border"
    assert all(0.6 < face["score"] <= 1 for face in found)


def test_frames_without_faces_are_left_out(faces, clips):
    wide, none, _, plain, _ = faces.extract(clips)
    np.testing.assert_array_equal(wide.start_s, [0.25, 1.25])
    assert {face["frame"] for face in wide.extras["faces"]} == {0, 2}
    for result in (none, plain):
        assert result.feature.shape == (0, WIDTH)
        assert len(result.start_s) == 0
        assert result.extras["faces"] == []


def test_how_many_are_averaged_is_a_setting(models, faces, clips):
    (usual,) = faces.extract(clips[:1])
    (largest,) = build(models, faces_averaged=1).extract(clips[:1])
    (every,) = build(models, faces_averaged=1000).extract(clips[:1])
    assert np.abs(usual.feature - largest.feature).max() > 1e-2
    assert np.abs(usual.feature - every.feature).max() > 1e-2
    areas = [face["w"] * face["h"] for face in usual.extras["faces"] if face["frame"] == 0]
    assert areas == sorted(areas, reverse=True)
    assert len(set(areas[:3])) == 3


def test_the_threshold_is_a_setting(models, clips):
    (result,) = build(models, confidence=1.0).extract(clips[:1])
    assert result.feature.shape == (0, WIDTH)


def test_faces_of_all_clips_share_batches(faces, clips):
    sizes = {"frames": [], "faces": []}
    hooks = [
        faces._detector._network.backend.model.register_forward_pre_hook(
            lambda _, inputs: sizes["frames"].append(len(inputs[0]))
        ),
        faces._expressions.network.vit.embeddings.register_forward_pre_hook(
            lambda _, inputs: sizes["faces"].append(len(inputs[0]))
        ),
    ]
    results = faces.extract(clips)
    for hook in hooks:
        hook.remove()
    # 6 wide frames in two clips, 2 upright ones and a small one. That shows no face: it is tried in three turns.
    assert sizes["frames"] == [4, 2, 2, 1, 3]
    total = sum(len(result.extras["faces"]) for result in results)
    assert total > CPU_FACES
    assert sizes["faces"][:-1] == [CPU_FACES] * ((total - 1) // CPU_FACES)
    assert sum(sizes["faces"]) == total


def test_out_of_memory_halves_the_batches(models, faces, clips):
    def refuse(_, inputs):
        if len(inputs[0]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    poor = build(models)
    poor._detector._network.backend.model.register_forward_pre_hook(refuse)
    poor._expressions.network.vit.embeddings.register_forward_pre_hook(refuse)
    for result, expected in zip(poor.extract(clips), faces.extract(clips), strict=True):
        np.testing.assert_allclose(result.feature, expected.feature, rtol=1e-4, atol=1e-4)
        assert len(result.extras["faces"]) == len(expected.extras["faces"])
    assert poor._frame_batches.size == poor._face_batches.size == 1


def test_boxes_without_a_pixel_are_no_faces(models, astronaut, clips):
    from ultralytics import YOLO

    tiny_yolo(models / "tiny" / "faces" / "flat.pt", astronaut, reach=(0, 0, 2))
    accept(models, ["hf:tiny/faces/flat.pt"])
    flat = build(models, detector="hf:tiny/faces/flat.pt")
    frame = clips[0].frames[0]
    (found,) = YOLO(models / "tiny" / "faces" / "flat.pt").predict(
        np.ascontiguousarray(frame[:, :, ::-1]), conf=0.6, iou=0.5, imgsz=320, device="cpu", verbose=False
    )
    left, top, right, bottom = found.boxes.xyxy.int().T
    pixels = (right - left) * (bottom - top)
    (result,) = flat.extract([frames_clip(frame)])
    assert (pixels == 0).any()
    assert len(result.extras["faces"]) == (pixels > 0).sum() > 0


def test_a_face_is_cut_to_whole_pixels_within_the_image():
    frame = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    np.testing.assert_array_equal(cut(frame, (0.0, 2.9, 3.2, 6.0)), frame[2:6, 0:3])
    assert cut(frame, (8.0, 0.0, 8.0, 6.0)).size == 0
    assert cut(frame, (3.1, 0.0, 3.9, 6.0)).size == 0


def test_a_broken_clip_fails_alone(faces, clips):
    good, bad, other = faces.extract([clips[0], broken_clip(), clips[0]])
    assert isinstance(bad, Failure)
    np.testing.assert_allclose(good.feature, other.feature, rtol=1e-5, atol=1e-5)
    assert len(good.feature) == 2


def test_the_vector_is_taken_before_the_final_layer_norm(models):
    vit = VitExpression(models / "tiny" / "expressions", "cpu", "float32")
    crops = [np.random.default_rng(seed).integers(0, 256, (20 + seed, 30, 3), np.uint8) for seed in range(3)]
    kept = []
    hook = vit.network.vit.layernorm.register_forward_hook(lambda *call: kept.append((call[1][0], call[2])))
    found = vit(crops)
    hook.remove()
    ((before, after),) = kept
    vectors = np.stack([expression.vector for expression in found])
    np.testing.assert_array_equal(vectors, before[:, 0].numpy())
    assert np.abs(vectors - after[:, 0].numpy()).max() > 0.1


def test_crops_are_prepared_with_pillow(models):
    from transformers import ViTImageProcessor, ViTImageProcessorPil

    vit = VitExpression(models / "tiny" / "expressions", "cpu", "float32")
    assert isinstance(vit._processor, ViTImageProcessorPil)
    # 3 rows, or 1: not to be taken for channels.
    crops = [np.random.default_rng(rows).integers(0, 256, (rows, 90, 3), np.uint8) for rows in (70, 3, 1)]
    pixels = []
    hook = vit.network.vit.embeddings.register_forward_pre_hook(lambda _, inputs: pixels.append(inputs[0]))
    vit(crops)
    hook.remove()
    expected = [
        np.asarray(Image.fromarray(crop).resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 127.5 - 1
        for crop in crops
    ]
    np.testing.assert_allclose(pixels[0].permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    other = ViTImageProcessor.from_pretrained(models / "tiny" / "expressions")(
        Image.fromarray(crops[0]), return_tensors="pt"
    )
    assert (other["pixel_values"][0] - pixels[0][0]).abs().max() > 1e-3


def test_expressions_have_the_names_of_the_package(models):
    vit = VitExpression(models / "tiny" / "expressions", "cpu", "float32")
    assert sorted(vit.names) == sorted(CLASSES)
    assert set(NAMES.values()) <= set(CLASSES)


def test_reduced_precision_is_close(models, faces, clips):
    (exact,), (rough,) = faces.extract(clips[:1]), build(models, precision="bfloat16").extract(clips[:1])
    assert len(exact.extras["faces"]) == len(rough.extras["faces"])
    difference = np.abs(exact.feature - rough.feature).max() / np.abs(exact.feature).max()
    assert 1e-6 < difference < 0.05


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("accepted", [False, True])
def test_a_hostile_detector_runs_no_code(models, tmp_path, accepted):
    mark = tmp_path / "mark"
    path = tmp_path / "faces.PT" if not accepted else tmp_path / "faces.pt"
    torch.save({"model": Hostile(mark)}, path)
    # That it would, if it were read.
    torch.load(path, weights_only=False)
    mark.rmdir()
    (tmp_path / "models.json").write_text('{"version": 1, "models": {}}')
    if accepted:
        # Even then, ultralytics' list of known classes keeps it out.
        accept(tmp_path, [str(path)])
    with pytest.raises(ValueError if accepted else NotAccepted, match="SAFE_LOAD" if accepted else "models verify"):
        build(models, detector=str(path))
    assert not mark.exists()


def test_a_changed_detector_is_refused(models, tmp_path):
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    build(folder)
    path = folder / "tiny" / "faces" / "model.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(NotAccepted):
        build(folder)


def test_onnx_detectors(models, faces, clips, tmp_path):
    (expected,) = faces.extract(clips[:1])
    # Neither is in the manifest: there is no pickle in them.
    flexible = build(models, detector=str(tiny_onnx(models / "tiny" / "faces" / "model.pt", tmp_path / "any.onnx")))
    (result,) = flexible.extract(clips[:1])
    np.testing.assert_allclose(result.feature, expected.feature, rtol=1e-3, atol=1e-3)
    assert len(result.extras["faces"]) == len(expected.extras["faces"])
    fixed = build(models, detector=str(tiny_onnx(models / "tiny" / "faces" / "model.pt", tmp_path / "fixed.onnx", 256)))
    assert fixed._frame_batches.size == 1
    squares = frames_clip(*[cv2.resize(frame, (256, 256)) for frame in clips[0].frames])
    (expected,), (result,) = build(models, image_size=256).extract([squares]), fixed.extract([squares])
    assert len(expected.feature) > 0
    np.testing.assert_allclose(result.feature, expected.feature, rtol=1e-3, atol=1e-3)


def test_a_detector_with_landmarks(models, astronaut, clips):
    tiny_yolo(models / "tiny" / "faces" / "pose.pt", astronaut, task="pose")
    accept(models, ["hf:tiny/faces/pose.pt"])
    pose = build(models, detector="hf:tiny/faces/pose.pt")
    (result,) = pose.extract(clips[:1])
    feature, seen, rows = alone(models, clips[0], pose.settings, "pose.pt")
    assert rows
    np.testing.assert_allclose(result.feature, feature, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(result.start_s, seen)


def test_a_detector_with_landmarks_of_faces_turns_tilted_ones(models, astronaut, clips):
    from ultralytics import YOLO

    path = tiny_yolo(models / "tiny" / "faces" / "marks.pt", astronaut, task="pose", landmarks=5)
    accept(models, ["hf:tiny/faces/marks.pt"])
    marks = build(models, detector="hf:tiny/faces/marks.pt")
    frame = clips[0].frames[0]
    (expected,) = YOLO(path).predict(
        np.ascontiguousarray(frame[:, :, ::-1]), conf=0.6, iou=0.5, imgsz=320, device="cpu", verbose=False
    )
    (found,) = marks._detector([frame])
    landmarks = np.array([face.landmarks for face in found])
    np.testing.assert_allclose(landmarks, expected.keypoints.xy.numpy(), atol=0.01)
    (result,) = marks.extract([frames_clip(frame)])
    faces = result.extras["faces"]
    turns = [turn_of(points) for points in landmarks]
    # Landmarks of random weights lie anyhow.
    assert sorted(face["turn"] for face in faces) == pytest.approx(
        sorted(turn if off_upright(turn) > TILTED else 0.0 for turn in turns), abs=0.1
    )
    assert max(off_upright(face["turn"]) for face in faces) > TILTED
    tilted = max(faces, key=lambda face: off_upright(face["turn"]))
    patch, box = upright_patch(frame, tuple(tilted[side] for side in "xywh"), tilted["turn"])
    (read,) = marks._expressions([marks._cut(patch, box)])
    assert (tilted["expression"], tilted["probability"]) == (read.name, pytest.approx(read.probability, abs=1e-3))


def test_wrong_models_are_named(models, tmp_path):
    with pytest.raises(ValueError, match="width = 768"):
        build(models, width=768)
    with pytest.raises(ValueError, match=r"\.pt or \.onnx"):
        build(models, detector="hf:tiny/faces")
    (tmp_path / "faces.engine").write_bytes(b"")
    with pytest.raises(ValueError, match=r"\.pt or \.onnx"):
        build(models, detector=str(tmp_path / "faces.engine"))
    shutil.copytree(models / "tiny" / "expressions", tmp_path / "half")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "half" / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"classifier\.weight"):
        build(models, expressions=str(tmp_path / "half"))


QUIET = """
import socket, sys
from pathlib import Path

def refuse(*_):
    raise AssertionError("the network was asked")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
import numpy as np
import torch
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.yolo_face import Detector, YoloFaceSettings

torch.set_num_threads(2)
detector = Detector(Path(sys.argv[1]), YoloFaceSettings(), Resources())
detector([np.zeros((90, 160, 3), np.uint8)])
assert torch.get_num_threads() == 2
"""


def test_ultralytics_is_quiet_and_offline(models, tmp_path):
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    home.mkdir()
    temporary.mkdir()
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("YOLO", "ULTRA", "XDG"))}
    ran = subprocess.run(
        [sys.executable, "-c", QUIET, models / "tiny" / "faces" / "model.pt"],
        env=keep | {"HOME": str(home), "TMPDIR": str(temporary)},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert list(home.rglob("*")) == []
    assert list(temporary.iterdir()) == []


def test_declarations_need_no_model():
    published = YoloFaceSettings()
    assert YoloFace.space(published) == "vemoclap/vit-face-expression"
    assert YoloFace.width(published) == 768
    assert YoloFace.references(published) == {
        "detector": "hf:AdamCodd/YOLOv11n-face-detection/model.pt",
        "expressions": "hf:trpakov/vit-face-expression",
    }
    assert YoloFace.space(YoloFaceSettings(expressions="hf:some/vit")) == "hub/some/vit"
    assert YoloFace.space(YoloFaceSettings(space="mine")) == "mine"
    assert YoloFace.detections in YoloFace.columns
