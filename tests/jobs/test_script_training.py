"""Lines that are drawn to train the classifier of scripts, and a short training on them."""

from itertools import islice
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch

from bench.text_scripts import accuracy
from lite.script_lines import LANGUAGES, LineMaker
from lite.script_training import ScriptNet, draw_lines, export, measure, train_script_net
from vemoclap_batch.networks.script import HEIGHT, ORIENTATIONS, SCRIPTS, WIDEST, ScriptClassifier, prepare

FONTS = [
    Path(matplotlib.__file__).parent / "mpl-data/fonts/ttf" / name for name in ("DejaVuSans.ttf", "DejaVuSerif.ttf")
]
WORDS = {
    "ru": ["привет", "город", "жизнь", "the"],
    "el": ["καλημέρα", "σπίτι", "ψωμί"],
    "vi": ["chào", "bạn", "một", "tam"],
    "ar": ["سلام", "بيت"],
}
#: Of a recogniser that reads Latin letters.
CHARACTERS = set(map(chr, range(0x20, 0x250)))


def words(language):
    script = next(name for name, languages in LANGUAGES.items() if language in languages)
    return WORDS.get(language) or WORDS.get(LANGUAGES[script][0]) or ["good", "morning", "house", "zürich"]


def test_the_same_seed_draws_the_same_lines():
    first, again, other = (list(islice(LineMaker(FONTS, words, CHARACTERS, seed), 60)) for seed in (1, 1, 2))
    for one, same in zip(first, again, strict=True):
        assert np.array_equal(one.image, same.image)
        assert (one.script, one.orientation) == (same.script, same.orientation)
    assert any(one.image.shape != another.image.shape for one, another in zip(first, other, strict=True))
    for line in first:
        assert line.image.dtype == np.uint8
        assert line.image.shape[0] == HEIGHT <= line.image.shape[1] <= WIDEST
        assert (line.orientation == -1) == (SCRIPTS[line.script] == "nothing")
    # These fonts draw no Chinese.
    assert {"latin", "cyrillic", "greek"} <= {SCRIPTS[line.script] for line in first} <= set(SCRIPTS) - {"chinese"}


def test_words_of_another_script_are_left_out():
    maker = LineMaker(FONTS, words, CHARACTERS, 0)
    assert maker._words_in("cyrillic", "ru") == WORDS["ru"][:3]
    assert maker._words_in("vietnamese", "vi") == WORDS["vi"]


def test_a_short_training_learns_and_is_exported(tmp_path):
    torch.set_num_threads(1)
    lines = draw_lines(FONTS, words, CHARACTERS, 480, seed=1)
    told = []
    net = train_script_net(lines, lines, epochs=4, progress=told.append)
    losses = [float(line.split()[3]) for line in told]
    assert losses[-1] < 0.8 * losses[0]
    found = measure(net, lines)
    assert found["accuracy"]["script"] > 1.5 / len(SCRIPTS)
    pytest.importorskip("onnx")
    export(net, tmp_path / "script.onnx")
    classifier = ScriptClassifier(tmp_path / "script.onnx")
    image = lines.images[0]
    look = classifier(image)
    with torch.inference_mode():
        logits = net(torch.from_numpy(prepare(image)))
    assert look.scripts == pytest.approx(logits[0][0].softmax(0).numpy(), abs=1e-5)
    assert look.orientations == pytest.approx(logits[1][0].softmax(0).numpy(), abs=1e-5)


def test_padding_changes_nothing():
    torch.manual_seed(0)
    net = ScriptNet().eval()
    line = torch.randn(1, 1, HEIGHT, 96)
    padded = torch.nn.functional.pad(line, (0, 64))
    with torch.inference_mode():
        alone, among = net(line), net(padded, torch.tensor([96]))
    # Two columns at the edge see the padding.
    for one, other, count in zip(alone, among, (len(SCRIPTS), len(ORIENTATIONS)), strict=True):
        assert one.shape == other.shape == (1, count)
        assert torch.allclose(one, other, atol=0.15)


@pytest.mark.parametrize(
    ("truth", "text", "share"),
    [("Hello, World", "hello world", 1.0), ("abcd", "abxd", 0.75), ("abcd", "", 0.0), ("abcd", "bcd", 0.75),
     ("abcd", "xabcd", 0.75), ("ab", "cdefgh", 0.0), ("kitten", "sitting", 0.5)],
)  # fmt: skip
def test_the_share_of_right_characters(truth, text, share):
    assert accuracy(truth, text) == pytest.approx(share)
