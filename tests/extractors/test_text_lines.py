"""Lines in scripts that the recogniser lacks, and lines that are turned: with the bundled models."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.extractors.conftest import frames_clip, written
from tests.extractors.tiny_text import language_folder, nllb_folder, recogniser_folder
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.paddle_models import Engine, bundled_detector, bundled_recogniser, model_characters
from vemoclap_batch.extractors.text_lines import LineReader, Recogniser, among_others
from vemoclap_batch.extractors.translated_ocr import TranslatedOcr, TranslatedOcrSettings
from vemoclap_batch.networks.script import ORIENTATIONS, SCRIPTS, Line

FONTS = Path(matplotlib.__file__).parent / "mpl-data/fonts/ttf"
RUSSIAN, GREEK, VIETNAMESE = "Мы ждём вас завтра", "Καλημέρα σε όλους", "Cảm ơn bạn rất nhiều"


def card(*lines, size=34, font="DejaVuSans.ttf"):
    """A card with lines of text, uint8 [360, 640, 3]."""
    image = Image.new("RGB", (640, 360), (30, 60, 90))
    chosen = ImageFont.truetype(str(FONTS / font), size)
    for row, line in enumerate(lines):
        ImageDraw.Draw(image).text((50, 70 + 2 * row * size), line, font=chosen, fill="white")
    return np.asarray(image)


@pytest.mark.parametrize("font", ["DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSans-Bold.ttf"])
@pytest.mark.parametrize(("script", "text"), [("cyrillic", RUSSIAN), ("greek", GREEK), ("vietnamese", VIETNAMESE)])
def test_a_line_in_a_script_that_the_recogniser_lacks_is_no_text(ocr, script, text, font):
    (result,) = ocr.extract([frames_clip(card(text, "See you tomorrow", font=font))])
    foreign, own = result.extras["lines"]
    assert (foreign["text"], foreign["note"]) == (None, "unknown script")
    assert foreign["script"] == script or (font, script) == ("DejaVuSerif.ttf", "cyrillic")
    assert 0.3 <= foreign["score"] <= 1
    assert np.array(foreign["polygon"]).shape == (4, 2)
    assert (own["text"], own["script"], own["orientation"], own["note"]) == (
        "See you tomorrow",
        "latin",
        "upright",
        None,
    )
    assert result.extras["text"] == "see you tomorrow"


@pytest.mark.parametrize("font", ["DejaVuSans.ttf", "DejaVuSerif.ttf"])
def test_beside_a_foreign_line_one_in_doubt_is_no_text(ocr, font):
    (result,) = ocr.extract([frames_clip(card(VIETNAMESE, "TẠM BIỆT BẠN", "Good morning, how are you?", font=font))])
    assert [line["note"] for line in result.extras["lines"]] == ["unknown script", "unknown script", None]
    assert result.extras["text"] == "good morning, how are you?"


def test_russian_capitals_are_no_latin_ones(ocr):
    (result,) = ocr.extract([frames_clip(card("ПРИВЕТ МОСКВА", "НОВЫЙ РЕСТОРАН"))])
    assert [line["script"] for line in result.extras["lines"]] == ["cyrillic"] * 2
    assert result.extras["text"] == ""


@pytest.mark.parametrize(
    ("turn", "orientation"),
    [
        (np.s_[:, ::-1], "mirrored"),
        (np.s_[::-1, ::-1], "upside down"),
    ],
)
def test_turned_lines_are_read_turned(ocr, turn, orientation):
    image = np.ascontiguousarray(card("Never look back", "We are almost home")[turn])
    (result,) = ocr.extract([frames_clip(image)])
    assert result.extras["text"] == "never look back we are almost home"
    assert {line["orientation"] for line in result.extras["lines"]} == {orientation}


@pytest.mark.parametrize("quarters", [1, 3])
def test_lines_that_run_up_or_down_are_read_in_their_order(ocr, quarters):
    image = np.ascontiguousarray(np.rot90(card("Never look back", "We are almost home"), quarters))
    (result,) = ocr.extract([frames_clip(image)])
    assert result.extras["text"] == "never look back we are almost home"


def test_two_columns(ocr):
    left, right = (
        ("The first column", "is read before", "the other one"),
        ("The second one", "comes after it", "as in a book"),
    )
    image = Image.new("RGB", (640, 360), (30, 60, 90))
    font = ImageFont.truetype(str(FONTS / "DejaVuSans.ttf"), 26)
    for column, lines in ((30, left), (360, right)):
        for row, line in enumerate(lines):
            ImageDraw.Draw(image).text((column, 80 + 50 * row), line, font=font, fill="white")
    (result,) = ocr.extract([frames_clip(np.asarray(image))])
    assert result.extras["text"] == " ".join([*left, *right]).lower()


def look(**probabilities):
    scripts = np.zeros(len(SCRIPTS), np.float32)
    for name, probability in probabilities.items():
        scripts[SCRIPTS.index(name)] = probability
    return Line(scripts, np.eye(len(ORIENTATIONS), dtype=np.float32)[0])


def test_a_line_in_doubt_goes_with_the_others():
    doubtful, russian, latin = look(latin=0.6, cyrillic=0.4), look(cyrillic=0.97, latin=0.03), look(latin=1.0)
    assert among_others([doubtful]) == [doubtful]
    assert [each.script for each in among_others([doubtful, russian, russian])] == ["cyrillic"] * 3
    assert [each.script for each in among_others([doubtful, latin])] == ["latin"] * 2
    # What is certain stays so among others.
    assert [each.script for each in among_others([russian, latin, latin, latin])] == ["cyrillic", *["latin"] * 3]
    for each in among_others([doubtful, russian, latin]):
        assert each.scripts.sum() == pytest.approx(1)
        assert each.orientations.sum() == pytest.approx(1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    top = tmp_path_factory.mktemp("models")
    return {
        "language": language_folder(top / "language", likely="en"),
        "translation": nllb_folder(top / "translation"),
        "recognisers.cyrillic": recogniser_folder(top / "cyrillic", "cyrillic"),
        "recognisers.greek": recogniser_folder(top / "greek", "greek"),
    }


def settings(folders):
    names = [name for name in folders if name.startswith("recognisers.")]
    return TranslatedOcrSettings(recognisers={name.partition(".")[2]: str(folders[name]) for name in names})


def test_each_line_is_read_by_the_recogniser_of_its_script(folders, monkeypatch):
    extractor = TranslatedOcr(settings(folders), Resources(models=folders))
    others = extractor.reader.others
    (result,) = extractor.extract([frames_clip(written("Only Latin here"))])
    assert result.extras["text"] == "only latin here"
    assert not any("model" in vars(other) for other in others.values())
    # Latin letters that are said to be Cyrillic: the stand-in writes the Cyrillic ones that look the same.
    classify = extractor.reader._classifier
    foreign = iter([look(cyrillic=0.99, latin=0.01), look(vietnamese=1.0)])
    monkeypatch.setattr(extractor.reader, "_classifier", lambda image: next(foreign, None) or classify(image))
    (result,) = extractor.extract([frames_clip(card("PAKETA MOCT", "Missing here", "See you tomorrow"))])
    russian, vietnamese, english = result.extras["lines"]
    assert (russian["text"], russian["script"], russian["note"]) == ("РАКЕТА МОСТ", "cyrillic", None)
    assert (vietnamese["text"], vietnamese["note"]) == (None, "unknown script")
    assert english["text"] == "See you tomorrow"
    assert result.extras["text"] == "ракета мост see you tomorrow"
    assert [name for name, other in others.items() if "model" in vars(other)] == ["cyrillic"]


def test_recognisers_are_models_of_the_extractor(folders):
    found = TranslatedOcr.references(settings(folders))
    assert set(found) == set(folders)
    assert found["recognisers.greek"] == str(folders["recognisers.greek"])
    # They are in the fingerprint by their content.
    assert "recognisers" not in settings(folders).model_dump()
    with pytest.raises(ValueError, match="recognisers for klingon: expected scripts out of latin"):
        TranslatedOcrSettings(recognisers={"klingon": "a"})


def test_a_recogniser_that_lacks_the_letters_is_refused(folders, tmp_path):
    engine = Engine()
    bundled = Recogniser(bundled_recogniser(tmp_path), engine)
    with pytest.raises(ValueError, match="for hangul cannot write its letters"):
        LineReader(None, bundled, {"hangul": Recogniser(folders["recognisers.greek"], engine)})
    with pytest.raises(ValueError, match="no character_dict"):
        model_characters(bundled_detector(tmp_path))
