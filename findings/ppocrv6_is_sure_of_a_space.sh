#!/usr/bin/env bash
# PP-OCRv6's small recogniser on a line in a script that it lacks.
#
# Guess: a line that it cannot read comes out as nonsense or as nothing, with a low score.
# Seen with rapidocr 3.10.0: "Доброе утро" is read as one space, at a score of 0.99. It sees the gap between the words and
# no letter that it knows; the score is the mean over what is written, so what is passed over does not count. A threshold of
# the score lets such lines through, and whoever strips the text has an empty line of which the model is sure.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 numpy==2.3.5 pillow==12.3.0
# For its font alone.
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps rapidocr==3.10.0 matplotlib==3.11.2
cd "$folder"
cat > check.py <<'PYTHON'
from importlib.metadata import distribution

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont

font = distribution("matplotlib").locate_file("matplotlib/mpl-data/fonts/ttf/DejaVuSerif.ttf")
model = distribution("rapidocr").locate_file("rapidocr/models/PP-OCRv6_rec_small.onnx")
session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
characters = session.get_modelmeta().custom_metadata_map["character"].removesuffix("\n").split("\n")
characters = ["", *characters, " "]  # as PaddleOCR does: the blank first, the space last


def read(text):
    """As PaddleOCR prepares and decodes a line: 48 pixels high, padded to 320, the mean score of what is written."""
    drawn = ImageFont.truetype(str(font), 24)
    image = Image.new("RGB", (int(drawn.getlength(text)) + 12, 33), "white")
    ImageDraw.Draw(image).text((6, 2), text, font=drawn, fill="black")
    width = min(320, -(-48 * image.width // image.height))
    line = np.zeros((1, 3, 48, 320), np.float32)
    pixels = np.asarray(image.resize((width, 48), Image.Resampling.BILINEAR), np.float32)
    line[0, :, :, :width] = (pixels.transpose(2, 0, 1) / 255 - 0.5) / 0.5
    (found,) = session.run(None, {session.get_inputs()[0].name: line})
    places, scores = found[0].argmax(1), found[0].max(1)
    kept = (places != 0) & np.insert(places[1:] != places[:-1], 0, True)
    return "".join(characters[at] for at in places[kept]), float(scores[kept].mean()) if kept.any() else 0.0


for text in ("Good morning", "Доброе утро"):
    print(repr(text), "is read as", *map(repr, read(text)))
assert read("Good morning")[0] == "Good morning"
text, score = read("Доброе утро")
assert text == " " and score > 0.9, (text, score)
PYTHON
venv/bin/python check.py
echo "as described"
