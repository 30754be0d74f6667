"""Faces in turned pictures and tilted heads, by the detector and the network of the lite profile."""

import numpy as np
import pytest
import skimage.data

from tests.extractors.conftest import frames_clip
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.face_expression import FaceExpression, FaceSettings
from vemoclap_batch.extractors.upright import box_before, turned_picture

pytestmark = pytest.mark.numeric

SIDES = "xywh"


@pytest.fixture(scope="module")
def usual(face_expression, astronaut):
    """The result of the picture as it is."""
    (result,) = face_expression.extract([frames_clip(astronaut)])
    return result


def likeness(one, other):
    one, other = one - one.mean(), other - other.mean()
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_face_in_a_turned_picture_is_read_upright(face_expression, astronaut, usual, quarters):
    picture = turned_picture(astronaut, quarters)
    (result,) = face_expression.extract([frames_clip(*[picture] * 3)])
    faces = result.extras["faces"]
    assert [face["frame"] for face in faces] == [0, 1, 2]
    face = faces[0]
    assert face["turn"] == 360 - 90 * quarters
    assert face["expression"] == usual.extras["faces"][0]["expression"] == "joy"
    assert likeness(result.feature[0], usual.feature[0]) > 0.9
    # The box is that of the picture as it came: turned back, it is where the upright one is.
    x, y, w, h = (usual.extras["faces"][0][side] for side in SIDES)
    left, top, width, height = box_before([face[side] for side in SIDES], quarters, *astronaut.shape[:2])
    assert abs(left + width / 2 - x - w / 2) < 0.2 * w
    assert abs(top + height / 2 - y - h / 2) < 0.2 * h


def test_upright_faces_are_read_as_they_lie(face_expression, astronaut, usual):
    from vemoclap_batch.networks import expression

    (face,) = usual.extras["faces"]
    assert face["turn"] == 0
    crop = expression.crop_face(astronaut, [face[side] for side in SIDES])
    (read,) = face_expression._read([crop])
    np.testing.assert_allclose(usual.feature[0], read.vector, rtol=1e-5, atol=1e-6)


def test_a_clip_that_shows_a_face_is_not_turned(face_expression, astronaut):
    upside_down = turned_picture(astronaut, 2)
    (result,) = face_expression.extract([frames_clip(astronaut, upside_down, upside_down)])
    assert result.extras["faces"][0]["frame"] == 0
    assert {face["turn"] for face in result.extras["faces"]} == {0}


def test_one_frame_in_three_is_not_enough(face_expression, astronaut):
    blank = np.zeros_like(astronaut)
    turned = turned_picture(astronaut, 2)
    once, twice = face_expression.extract([frames_clip(turned, blank, blank), frames_clip(turned, blank, turned)])
    # Unturned it finds the face too, without being sure of it.
    assert {face["turn"] for face in once.extras["faces"]} <= {0}
    assert [(face["frame"], face["turn"]) for face in twice.extras["faces"]] == [(0, 180), (2, 180)]


def test_turned_pictures_are_a_setting(astronaut):
    turned = frames_clip(*[turned_picture(astronaut, 2)] * 3)
    for confidence in (None, 100):
        strict = FaceExpression(FaceSettings(turned_confidence=confidence), Resources())
        (result,) = strict.extract([turned])
        assert {face["turn"] for face in result.extras["faces"]} <= {0}


def test_texture_shows_no_face_in_any_turn(face_expression):
    images = [skimage.data.gravel(), skimage.data.grass(), skimage.data.brick(), skimage.data.coins()]
    clips = [frames_clip(*[np.dstack([image[:300, :380]] * 3)] * 3) for image in images]
    for result in face_expression.extract(clips):
        assert result.extras["faces"] == []
