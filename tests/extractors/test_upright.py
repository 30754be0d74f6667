"""The geometry of turned faces: angles, boxes and pixels go there and back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vemoclap_batch.extractors.upright import box_before, off_upright, turn_of, turned_picture, upright_patch

#: Eyes, nose and corners of the mouth of a face seen from the front, and of one that looks to the side.
FRONT = np.array([[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]], float)
PROFILE = np.array([[50, 40], [56, 40], [70, 60], [52, 80], [57, 80]], float)

angles = st.floats(0, 360, exclude_max=True)
sizes = st.integers(2, 40)


def turned(points, degrees):
    """Points turned clockwise about the origin; y points down."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def apart(one, other):
    return off_upright(one - other)


@given(degrees=angles, scale=st.floats(0.05, 50), x=st.floats(-2000, 2000), y=st.floats(-2000, 2000))
def test_a_turned_face_is_turned_back(degrees, scale, x, y):
    upright = turn_of(FRONT)
    assert off_upright(upright) < 1
    assert apart(turn_of(scale * turned(FRONT, degrees) + [x, y]), upright - degrees) < 1e-3


@given(degrees=angles)
def test_a_face_in_profile_is_taken_for_no_tilted_one(degrees):
    assert off_upright(turn_of(PROFILE)) < 15
    assert apart(turn_of(turned(PROFILE, degrees)), -degrees) < 15


@given(turn=st.floats(-1000, 1000))
def test_the_way_to_upright_is_the_shorter_one(turn):
    assert 0 <= off_upright(turn) <= 180
    assert off_upright(turn) == pytest.approx(off_upright(-turn), abs=1e-9)


@given(data=st.data(), height=sizes, width=sizes, quarters=st.integers(-4, 7))
def test_a_box_of_a_turned_picture_holds_the_same_pixels(data, height, width, quarters):
    picture = np.arange(height * width).reshape(height, width)
    there = turned_picture(picture, quarters)
    left, top = data.draw(st.integers(0, there.shape[1] - 1)), data.draw(st.integers(0, there.shape[0] - 1))
    w, h = data.draw(st.integers(1, there.shape[1] - left)), data.draw(st.integers(1, there.shape[0] - top))
    x, y, before_w, before_h = box_before((left, top, w, h), quarters, height, width)
    inside = picture[y : y + before_h, x : x + before_w]
    assert sorted(inside.ravel()) == sorted(there[top : top + h, left : left + w].ravel())


def test_a_quarter_is_clockwise():
    np.testing.assert_array_equal(turned_picture(np.array([[1, 2], [3, 4]]), 1), [[3, 1], [4, 2]])


@pytest.mark.parametrize("degrees", [0, 37, 90, 146, 180, 270, 315])
def test_a_patch_shows_the_face_upright(degrees):
    # A face of four colours: what is in its corners tells how it stands.
    face = np.zeros((40, 30, 3), np.uint8)
    face[:20, :15], face[:20, 15:], face[20:, :15], face[20:, 15:] = 50, 100, 150, 200
    canvas = np.full((200, 200, 3), 10, np.uint8)
    canvas[80:120, 85:115] = face
    lying, box = upright_patch(canvas, (85, 80, 30, 40), (360 - degrees) % 360)
    # The patch now shows it turned; seen as a picture, turn it back from its box.
    tall = 45 < degrees % 180 < 135
    assert box[2:] == ((40, 30) if tall else (30, 40))
    side = len(lying)
    assert side == 80
    upright, _ = upright_patch(lying, (side / 2 - 15, side / 2 - 20, 30, 40), degrees)
    middle = side // 2
    corners = [upright[middle + dy, middle + dx, 0] for dy in (-10, 10) for dx in (-8, 8)]
    np.testing.assert_allclose(corners, [50, 100, 150, 200], atol=3)


def test_a_patch_at_the_border_repeats_the_edge():
    frame = np.full((20, 20, 3), 77, np.uint8)
    patch, _ = upright_patch(frame, (-4, -4, 10, 10), 45)
    assert patch.shape == (20, 20, 3)
    assert (patch == 77).all()
