"""The classifier of scripts: its input, what recognisers know, and lines in a font that it was not trained on."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from vemoclap_batch.extractors.paddle_models import bundled_characters
from vemoclap_batch.extractors.text_lines import WEIGHTS
from vemoclap_batch.networks.script import (
    HEIGHT,
    LETTERS,
    ORIENTATIONS,
    SCRIPTS,
    WIDEST,
    ScriptClassifier,
    known_scripts,
    prepare,
)

FONT = Path(matplotlib.__file__).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
TEXTS = {
    "latin": [
        "Good morning, my friend",
        "Ich möchte nach Hause",
        "WHERE ARE YOU NOW?",
        "Où est la gare s'il vous plaît",
    ],
    "cyrillic": ["Доброе утро, друзья", "Где вы сейчас живёте?", "ПРИВЕТ ВСЕМ ЛЮДЯМ", "Я не хочу домой"],
    "greek": ["Καλημέρα σας φίλοι μου", "Πού είναι ο σταθμός;", "Θέλω να πάω σπίτι"],
    "vietnamese": ["Cảm ơn bạn rất nhiều", "Tôi muốn về nhà ngay bây giờ", "Bạn đang ở đâu vậy?"],
    "arabic": ["صباح الخير يا أصدقاء", "أريد أن أذهب إلى البيت"],
}


def line(text, size=36):
    """Dark letters on a light ground, uint8 [h, w, 3], with a margin as detectors leave it."""
    font = ImageFont.truetype(str(FONT), size)
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("RGB", (int(right - left) + 12, int(bottom - top) + 10), (225, 225, 215))
    ImageDraw.Draw(image).text((6 - left, 5 - top), text, font=font, fill=(30, 20, 60))
    return np.asarray(image)


@pytest.fixture(scope="module")
def classifier():
    return ScriptClassifier(WEIGHTS)


@pytest.mark.parametrize("size", [18, 36])
@pytest.mark.parametrize("script", list(TEXTS))
def test_scripts_are_told_apart(classifier, script, size):
    found = [classifier(line(text, size)) for text in TEXTS[script]]
    assert [look.script for look in found] == [script] * len(found)
    for look in found:
        assert look.scripts.shape == (len(SCRIPTS),)
        assert look.scripts.sum() == pytest.approx(1, abs=1e-4)
        assert look.probability(SCRIPTS) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [("upright", np.s_[:]), ("upside down", np.s_[::-1, ::-1]), ("mirrored", np.s_[:, ::-1])],
)
def test_orientations_are_told_apart(classifier, orientation, turn):
    for text in TEXTS["latin"]:
        look = classifier(np.ascontiguousarray(line(text)[turn]))
        assert ORIENTATIONS[look.orientations.argmax()] == orientation
        assert look.turn[1] == look.orientations[1:].max()


def test_the_same_line_in_other_colours_and_sizes_is_the_same_input():
    image = line("Good morning")
    inverted, brighter = 255 - image, (image * 0.5 + 100).astype(np.uint8)
    assert np.abs(prepare(image) + prepare(inverted)).max() < 0.01
    assert np.abs(prepare(image) - prepare(brighter)).max() < 0.1
    assert prepare(image).shape == (1, 1, HEIGHT, round(HEIGHT * image.shape[1] / image.shape[0]))
    assert prepare(image).dtype == np.float32


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 4000), (40, 5000), (500, 20)])
def test_lines_of_any_shape(classifier, shape):
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    assert HEIGHT <= prepare(image).shape[3] <= WIDEST
    look = classifier(image)
    assert np.isfinite(look.scripts).all()
    assert np.isfinite(look.orientations).all()
    assert look.turn[0] in ORIENTATIONS[1:]


def test_a_flat_line_is_no_noise_enlarged():
    assert np.abs(prepare(np.full((30, 200, 3), 127, np.uint8))).max() == 0


def test_what_recognisers_know():
    bundled = known_scripts(bundled_characters())
    assert bundled == {"latin", "chinese", "digits", "nothing"}
    assert known_scripts([*LETTERS["cyrillic"], *LETTERS["latin"]]) == {"cyrillic", "latin", "digits", "nothing"}
    assert known_scripts("") == {"digits", "nothing"}


def test_weights_of_other_classes_are_refused(tmp_path):
    whole = WEIGHTS.read_bytes()
    assert whole.count(b"latin,vietnamese") == 1
    (tmp_path / "other.onnx").write_bytes(whole.replace(b"latin,vietnamese", b"klingon,vietname"))
    with pytest.raises(ValueError, match="expected"):
        ScriptClassifier(tmp_path / "other.onnx")
