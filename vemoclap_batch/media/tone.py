"""HDR frames (HLG and PQ) become SDR frames.

The steps, all on display light in nits (cd/m²) and in float32:

1. The signal becomes light: BT.2100 table 4 (PQ), or table 5 (HLG) with the OOTF of a display of 1,000 nits, half
   of it on luminance and half on each component.
2. BT.2020 light becomes BT.709 light by the matrix of BT.2087; what is below 0 is cut off.
3. Each component goes through the EETF of BT.2390 (section 5.4.1) from the frame's own peak to 203 nits, the
   reference white of BT.2408: with a peak of 1,000 nits it bends what is above 90 nits, and 203, 400 and 1,000 nits
   become the codes 230, 250 and 255. A frame with nothing brighter than reference white passes unchanged.
4. The light, of which 203 nits are full scale, is encoded with the inverse of BT.1886 (gamma 2.4).
"""

from __future__ import annotations

from functools import lru_cache

import av
import cv2
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

#: BT.2408: the light of a diffuse white, 75 % of HLG and 58 % of PQ, in nits. It becomes the white of SDR.
REFERENCE_WHITE = 203.0
#: BT.2100: the display that HLG is defined for, in nits, and its system gamma.
_HLG_PEAK = 1000.0
_HLG_GAMMA = 1.2
#: BT.1886.
_SDR_GAMMA = 2.4
#: Columns and rows of the cells whose means tell the peak: coding a white page with red letters makes single pixels
#: four times as bright as the page.
_CELLS = (40, 30)
#: Entries of the table from light to SDR codes: 24 or more for each of the codes.
_STEPS = 16384

#: AVCOL_SPC_UNSPECIFIED, which PyAV has no name for.
_MATRIX_UNSPECIFIED = 2
# CIE x and y of red, green, blue and white D65.
_D65 = (0.3127, 0.3290)
_CHROMATICITIES = {
    ColorPrimaries.BT709: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),
    ColorPrimaries.BT2020: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    ColorPrimaries.SMPTE432: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}


def needs_tone_mapping(frame: av.VideoFrame) -> bool:
    """Whether the frame's transfer is HLG (ARIB STD-B67) or PQ (SMPTE ST 2084); BT.2020 primaries alone are no HDR."""
    return frame.color_trc in (ColorTrc.ARIB_STD_B67, ColorTrc.SMPTE2084)


def to_sdr(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """Tone map a frame for which ``needs_tone_mapping`` holds, by itself.

    Args:
        frame: HLG or PQ of any pixel format. A matrix or primaries that it does not name are taken to be BT.2020's.
        size: width and height wanted, in pixels; the frame is scaled down to it before it is mapped, never enlarged.

    Returns:
        RGB uint8 [height, width, 3]: BT.709 primaries and white, gamma 2.4 (BT.1886).

    Raises:
        OSError: FFmpeg cannot convert the frame's matrix (ICtCp, YCgCo, BT.2020 constant luminance).
    """
    signal = _scaled_rgb(frame, size)
    own = _CHROMATICITIES.get(frame.color_primaries, _CHROMATICITIES[ColorPrimaries.BT2020])  # type: ignore[call-overload]
    to_xyz = _rgb_to_xyz(own)
    light = _light_table(frame.color_trc, _white_code(frame))[signal]
    if frame.color_trc == ColorTrc.ARIB_STD_B67:
        # BT.2100 and libplacebo apply the OOTF to luminance, zscale to each component unless told otherwise. Nobody can
        # tell by which of them a file was made: half way between is within 3 of 255 of both on ordinary frames.
        luminance = light @ to_xyz[1]  # [height, width]
        light *= np.float32(_HLG_PEAK) * (light * luminance[..., None]) ** np.float32((_HLG_GAMMA - 1) / 2)
    to_bt709 = np.linalg.inv(_rgb_to_xyz(_CHROMATICITIES[ColorPrimaries.BT709])) @ to_xyz
    return _tone_mapped(light @ to_bt709.T.astype(np.float32))


def _scaled_rgb(frame: av.VideoFrame, size: tuple[int, int]) -> np.ndarray:
    """The signal as RGB uint16 [height, width, 3], scaled down."""
    width, height = min(size[0], frame.width), min(size[1], frame.height)
    scaled = (width, height) != (frame.width, frame.height)
    # FFmpeg scales before it leaves YUV: to 0.3 of 255 what cv2.INTER_AREA gives of full RGB, in a thirtieth of the
    # time. Planes are faster than packed 48 bit pixels, and more exact from 8 bit frames. With a transfer or primaries
    # FFmpeg would convert, and clip at reference white, by itself.
    planar = VideoReformatter().reformat(
        frame,
        width,
        height,
        "gbrp16le",
        src_colorspace=Colorspace.BT2020 if frame.colorspace == _MATRIX_UNSPECIFIED else None,
        interpolation=Interpolation.AREA if scaled else Interpolation.BICUBIC,
        threads=1,
    )
    green, blue, red = (
        np.frombuffer(memoryview(plane), np.uint16).reshape(height, plane.line_size // 2)[:, :width]
        for plane in planar.planes
    )
    return np.stack([red, green, blue], axis=2)


def _white_code(frame: av.VideoFrame) -> int:
    """What FFmpeg makes of the signal's 100 % where it makes 16 bit RGB: never quite 65,535 from fewer bits."""
    full = frame.color_range == ColorRange.JPEG or frame.format.is_rgb or frame.format.name.startswith("yuvj")
    bits = frame.format.components[0].bits
    return (2**bits - 1) << (16 - bits) if full else 255 << 8


@lru_cache(maxsize=8)
def _light_table(transfer: int, white: int) -> np.ndarray:
    """Light for each of 65,536 codes: PQ in nits, HLG as scene light of 0 to 1. float32 [65536]."""
    signal = np.minimum(np.arange(65536) / white, 1)
    if transfer == ColorTrc.SMPTE2084:
        return _pq_light(signal).astype(np.float32)
    # BT.2100 table 5, the inverse of HLG's OETF.
    a = 0.17883277
    b = 1 - 4 * a
    c = 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12).astype(np.float32)


@lru_cache(maxsize=8)
def _rgb_to_xyz(chromaticities: tuple[tuple[float, float], ...]) -> np.ndarray:
    """The matrix from linear RGB to CIE XYZ by SMPTE RP 177: float32 [3, 3]; its middle row weighs luminance."""
    points = np.array([(x / y, 1, (1 - x - y) / y) for x, y in (*chromaticities, _D65)]).T
    return (points[:, :3] * np.linalg.solve(points[:, :3], points[:, 3])).astype(np.float32)


def _tone_mapped(light: np.ndarray) -> np.ndarray:
    """BT.709 light in nits, float32 [height, width, 3], as SDR codes: uint8 of the same shape."""
    height, width = light.shape[:2]
    cells = cv2.resize(light, (min(width, _CELLS[0]), min(height, _CELLS[1])), interpolation=cv2.INTER_AREA)
    peak = max(float(cells.max()), REFERENCE_WHITE)
    # The table has equal steps of the fourth root of light: fine where the codes are, and two square roots to find.
    np.clip(light / np.float32(peak), 0, 1, out=light)
    places = np.sqrt(np.sqrt(light, out=light), out=light) * np.float32(_STEPS - 1) + np.float32(0.5)
    return _sdr_table(peak)[places.astype(np.uint16)]


def _sdr_table(peak: float) -> np.ndarray:
    """SDR codes for equal steps of the fourth root of light from 0 to the peak: uint8 [_STEPS]."""
    light = np.linspace(0, 1, _STEPS) ** 4 * peak
    share = _eetf(light, peak) / REFERENCE_WHITE
    return np.rint(255 * np.clip(share, 0, 1) ** (1 / _SDR_GAMMA)).astype(np.uint8)


def _eetf(light: np.ndarray, peak: float) -> np.ndarray:
    """BT.2390 section 5.4.1 from a black of 0 and this peak to a black of 0 and reference white, all in nits."""
    if peak <= REFERENCE_WHITE:
        return light
    top = _pq_signal(np.array(peak))
    e1 = _pq_signal(light) / top
    max_lum = _pq_signal(np.array(REFERENCE_WHITE)) / top
    knee = 1.5 * max_lum - 0.5
    t = np.maximum((e1 - knee) / (1 - knee), 0)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * max_lum
    return _pq_light(np.where(e1 < knee, e1, spline) * top)


# BT.2100 table 4.
_M1, _M2 = 2610 / 16384, 2523 / 4096 * 128
_C1, _C2, _C3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32


def _pq_light(signal: np.ndarray) -> np.ndarray:
    """The EOTF of PQ: a signal of 0 to 1 as nits."""
    root = signal ** (1 / _M2)
    return 10000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)


def _pq_signal(light: np.ndarray) -> np.ndarray:
    """The inverse EOTF of PQ: nits as a signal of 0 to 1."""
    root = (light / 10000) ** _M1
    return ((_C1 + _C2 * root) / (1 + _C3 * root)) ** _M2
