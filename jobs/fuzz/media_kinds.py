"""Kinds of video files that FFmpeg can write, and what fits together: containers, codecs, rates, joins, cuts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Codec:
    """A way to encode frames.

    Attributes:
        encoder: name in FFmpeg.
        options: of the encoder.
        formats: pixel formats that it takes.
        groups: lengths of its groups of pictures (GOP); (1,) for a codec without prediction.
        b_frames: how many frames in a row may be predicted from both sides.
        sizes: (width, height), where not any will do.
        rates: frames a second that it can say; empty for any.
    """

    encoder: str
    options: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("yuv420p",)
    groups: tuple[int, ...] = (1, 12, 50)
    b_frames: tuple[int, ...] = (0,)
    sizes: tuple[tuple[int, int], ...] = ((96, 80), (128, 96), (160, 120), (176, 144), (226, 166), (320, 240))
    rates: tuple[str, ...] = ()


_FILM_RATES = ("24", "25", "30000/1001", "30", "50", "60")
_X264 = ("-preset", "veryfast", "-crf", "20")
_X265 = ("-preset", "ultrafast", "-crf", "20", "-x265-params")
_QUANTISER = ("-q:v", "3")
#: A finer one makes the family of H.263 clip what turns from black to white.
_H263_QUANTISER = ("-q:v", "9")
_H263_SIZES = ((128, 96), (176, 144))
_QUICK_VPX = ("-deadline", "realtime", "-cpu-used", "8", "-b:v", "1M")
_GOOD_VPX = ("-deadline", "good", "-cpu-used", "8", "-b:v", "1M", "-auto-alt-ref", "1", "-lag-in-frames", "12")
_PALETTE = ("pal8",)

CODECS = {
    "h264": Codec("libx264", _X264, ("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le"), b_frames=(0, 2)),
    "h264 open": Codec("libx264", (*_X264, "-x264-params", "open-gop=1"), groups=(12, 50), b_frames=(2,)),
    "h264 refresh": Codec("libx264", (*_X264, "-x264-params", "intra-refresh=1"), groups=(12, 50)),
    "hevc": Codec("libx265", (*_X265, "log-level=none:pools=none:open-gop=0"), ("yuv420p", "yuv420p10le"),
                  b_frames=(0, 3)),
    "hevc open": Codec("libx265", (*_X265, "log-level=none:pools=none:open-gop=1"), groups=(12, 50), b_frames=(3,)),
    "av1": Codec("libsvtav1", ("-preset", "8", "-crf", "15", "-svtav1-params", "lp=1"), groups=(12, 50)),
    "vp8": Codec("libvpx", _QUICK_VPX),
    "vp8 hidden": Codec("libvpx", _GOOD_VPX, groups=(12, 50)),
    "vp9": Codec("libvpx-vp9", _QUICK_VPX, ("yuv420p", "yuv444p")),
    "vp9 hidden": Codec("libvpx-vp9", _GOOD_VPX, groups=(12, 50)),
    "mpeg1": Codec("mpeg1video", _QUANTISER, b_frames=(0, 2), rates=_FILM_RATES),
    "mpeg2": Codec("mpeg2video", _QUANTISER, b_frames=(0, 2), rates=_FILM_RATES),
    "mpeg2 closed": Codec("mpeg2video", (*_QUANTISER, "-flags", "+cgop", "-sc_threshold", "1000000000"),
                          groups=(12,), b_frames=(2,), rates=_FILM_RATES),
    "mpeg4": Codec("mpeg4", _QUANTISER, b_frames=(0, 2)),
    "mpeg4 packed": Codec("libxvid", _QUANTISER, groups=(12, 50), b_frames=(2,)),
    "theora": Codec("libtheora", ("-q:v", "8")),
    "mjpeg": Codec("mjpeg", _QUANTISER, ("yuvj420p", "yuvj422p"), (1,)),
    "prores": Codec("prores_ks", (), ("yuv422p10le", "yuv444p10le"), (1,)),
    "dnxhd": Codec("dnxhd", ("-profile:v", "dnxhr_sq"), ("yuv422p",), (1,), sizes=((320, 256), (256, 256))),
    "ffv1": Codec("ffv1", (), ("yuv420p", "bgr0", "gray"), (1, 12)),
    "huffyuv": Codec("huffyuv", (), ("yuv422p", "rgb24"), (1,)),
    "utvideo": Codec("utvideo", (), ("gbrp", "yuv420p"), (1,)),
    "raw": Codec("rawvideo", (), ("bgr24", "yuv420p", "pal8"), (1,)),
    "raw YUV": Codec("rawvideo", (), ("yuv420p", "yuyv422"), (1,)),
    "png": Codec("png", (), ("rgb24", "pal8"), (1,)),
    "qtrle": Codec("qtrle", (), ("rgb24", "rgb555be"), (1, 12)),
    "smc": Codec("smc", (), _PALETTE, (12, 50)),
    "rpza": Codec("rpza", (), ("rgb555le",), (12,)),
    "svq1": Codec("svq1", ("-q:v", "2"), ("yuv410p",), (12, 50)),
    "cinepak": Codec("cinepak", (), ("rgb24",), (12,), sizes=((96, 80), (128, 96))),
    "msvideo1": Codec("msvideo1", (), ("rgb555le",), (12,), sizes=((96, 80), (160, 120))),
    "msrle": Codec("msrle", (), _PALETTE, (12, 50)),
    "zmbv": Codec("zmbv", (), ("bgr0",), (12, 50)),
    "gif": Codec("gif", (), _PALETTE, (50,)),
    "msmpeg4v2": Codec("msmpeg4v2", _H263_QUANTISER),
    "msmpeg4v3": Codec("msmpeg4", _H263_QUANTISER),
    "wmv1": Codec("wmv1", _H263_QUANTISER),
    "wmv2": Codec("wmv2", _H263_QUANTISER),
    "flv1": Codec("flv", _H263_QUANTISER),
    "h263": Codec("h263", _H263_QUANTISER, sizes=_H263_SIZES),
    "rv10": Codec("rv10", _H263_QUANTISER, groups=(12, 50), sizes=((128, 96), (176, 144), (320, 240))),
    "rv20": Codec("rv20", _H263_QUANTISER, groups=(12, 50), sizes=((128, 96), (176, 144), (320, 240))),
}  # fmt: skip

#: Audio codec: encoder, sampling rates in Hz, channels, options.
AUDIO_CODECS: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], tuple[str, ...]]] = {
    "aac": ("aac", (16_000, 24_000, 44_100, 48_000), (1, 2, 6), ("-b:a", "128k")),
    "mp3": ("libmp3lame", (16_000, 32_000, 44_100, 48_000), (1, 2), ("-b:a", "96k")),
    "mp2": ("mp2", (32_000, 44_100, 48_000), (1, 2), ("-b:a", "128k")),
    "ac3": ("ac3", (32_000, 44_100, 48_000), (1, 2, 6), ()),
    "opus": ("libopus", (48_000,), (1, 2), ("-b:a", "96k")),
    "vorbis": ("libvorbis", (22_050, 44_100, 48_000), (1, 2), ("-q:a", "5")),
    "flac": ("flac", (16_000, 44_100, 96_000), (1, 2), ()),
    "alac": ("alac", (44_100, 48_000), (1, 2), ()),
    "pcm": ("pcm_s16le", (8_000, 16_000, 44_100, 48_000), (1, 2), ()),
    "pcm24": ("pcm_s24le", (48_000,), (1, 2), ()),
    "adpcm": ("adpcm_ms", (22_050, 44_100), (1, 2), ()),
    "wma": ("wmav2", (22_050, 44_100), (1, 2), ("-b:a", "96k")),
    "amr": ("libopencore_amrnb", (8_000,), (1,), ("-b:a", "12.2k")),
}


@dataclass(frozen=True)
class Container:
    """A kind of file.

    Attributes:
        muxer: name in FFmpeg.
        video, audio: what fits into it; audio may always be absent.
        rates: frames a second that it can say.
        audio_rates: Hz of the audio that it can hold; empty for any.
        joins: how parts can be put together by ``cat``.
        cuts: how a file may have lost its beginning or end.
        variants: options of the muxer, one set at random.
        matrix, shape: whether it says how the frame is turned, and the shape of its pixels.
        variable: whether frames may be shown for unequal times.
        late: whether the audio may start after the video.
        weight: how often it is drawn: what people have more of, and what has more to go wrong.
    """

    muxer: str
    video: tuple[str, ...]
    audio: tuple[str, ...]
    rates: tuple[str, ...] = ("8", "10", "12.5", "15", "24", "25", "30000/1001", "30", "50", "60")
    audio_rates: tuple[int, ...] = ()
    joins: tuple[str, ...] = ()
    cuts: tuple[str, ...] = ("end",)
    variants: tuple[tuple[str, ...], ...] = ((),)
    matrix: bool = False
    shape: bool = False
    variable: bool = True
    late: bool = True
    weight: int = 1


_BROADCAST = ("restart", "onward", "jump", "wrap")
_MOOV = ((), ("-movflags", "faststart"), ("-movflags", "frag_keyframe+empty_moov+delay_moov"))
_COPIES = ("end", "copy", "copy mid-group")
_MATROSKA_VIDEO = (
    "h264", "h264 open", "h264 refresh", "hevc", "hevc open", "av1", "vp8", "vp8 hidden", "vp9", "vp9 hidden",
    "mpeg2", "mpeg4", "mpeg4 packed", "theora", "mjpeg", "prores", "ffv1", "huffyuv", "utvideo", "raw YUV", "wmv2",
    "flv1",
)  # fmt: skip

CONTAINERS = {
    ".mp4": Container("mp4", ("h264", "h264 open", "h264 refresh", "hevc", "hevc open", "av1", "vp9", "vp9 hidden",
                              "mpeg2", "mpeg4", "mpeg4 packed", "mjpeg"),
                      ("aac", "mp3", "ac3", "opus", "flac", "alac"),
                      cuts=_COPIES, variants=_MOOV, matrix=True, shape=True, weight=4),
    ".mov": Container("mov", ("h264", "hevc", "mpeg4", "mjpeg", "prores", "dnxhd", "raw", "png", "qtrle", "smc", "rpza",
                              "svq1", "cinepak", "h263"),
                      ("aac", "alac", "pcm", "pcm24", "ac3"),
                      cuts=_COPIES, variants=_MOOV[:2], matrix=True, shape=True, weight=3),
    ".mkv": Container("matroska", _MATROSKA_VIDEO, ("aac", "mp3", "ac3", "opus", "vorbis", "flac", "pcm", "mp2"),
                      joins=("restart",), cuts=_COPIES, variants=((), ("-live", "1"), ("-cluster_time_limit", "500")),
                      matrix=True, shape=True, weight=4),
    ".webm": Container("webm", ("vp8", "vp8 hidden", "vp9", "vp9 hidden", "av1"), ("opus", "vorbis"),
                       joins=("restart",), cuts=_COPIES, variants=((), ("-live", "1")), shape=True, weight=2),
    ".avi": Container("avi", ("mpeg4", "mpeg4 packed", "h264", "mjpeg", "raw", "huffyuv", "ffv1", "utvideo", "png",
                              "cinepak", "msvideo1", "msrle", "zmbv", "msmpeg4v2", "msmpeg4v3", "wmv2", "flv1"),
                      ("mp3", "pcm", "ac3", "adpcm", "mp2"), cuts=("end", "copy mid-group"), late=False, weight=2),
    ".ts": Container("mpegts", ("h264", "h264 open", "h264 refresh", "hevc", "hevc open", "mpeg2", "mpeg2 closed",
                                "mpeg4"),
                     ("aac", "mp2", "mp3", "ac3", "opus"),
                     joins=(*_BROADCAST, "other audio rate"), cuts=("start", "end"),
                     variants=((), ("-pes_payload_size", "0")), shape=True, weight=3),
    ".m2ts": Container("mpegts", ("h264", "h264 open", "mpeg2"), ("ac3", "mp2"), rates=_FILM_RATES, joins=_BROADCAST,
                       cuts=("start", "end"), variants=(("-mpegts_m2ts_mode", "1"),), variable=False),
    ".mpg": Container("mpeg", ("mpeg1", "mpeg2", "mpeg2 closed"), ("mp2", "mp3"), rates=_FILM_RATES,
                      joins=("restart",), cuts=("start", "end"), variable=False),
    ".vob": Container("vob", ("mpeg2", "mpeg2 closed"), ("mp2", "ac3"), rates=_FILM_RATES, joins=("restart",),
                      cuts=("start", "end"), variable=False),
    ".flv": Container("flv", ("flv1", "h264", "h264 refresh"), ("aac", "mp3"), audio_rates=(44_100,),
                      cuts=("end", "copy mid-group")),
    ".ogv": Container("ogg", ("theora", "vp8"), ("vorbis", "opus", "flac"), joins=("restart",), variable=False,
                      late=False),
    ".3gp": Container("3gp", ("h263", "h264", "mpeg4"), ("aac", "amr"), cuts=_COPIES),
    ".wmv": Container("asf", ("wmv1", "wmv2", "msmpeg4v3"), ("wma", "mp3")),
    ".mxf": Container("mxf", ("mpeg2", "dnxhd", "h264"), ("pcm",), rates=("24", "25", "30000/1001", "30", "50"),
                      audio_rates=(48_000,), variable=False, late=False),
    ".gif": Container("gif", ("gif",), (), rates=("8", "10", "12.5", "20", "25", "50")),
    ".rm": Container("rm", ("rv10", "rv20"), ("ac3",), variable=False, late=False),
}  # fmt: skip

#: How a player has to turn the stored frame: clockwise degrees and mirrored from left to right, in this order.
MATRICES = {
    "turned 90": (90, False),
    "turned 180": (180, False),
    "turned 270": (270, False),
    "mirrored": (0, True),
    "turned 90, mirrored": (90, True),
    "turned 180, mirrored": (180, True),
    "turned 270, mirrored": (270, True),
}
SHAPES = ("4/3", "3/4", "16/11", "12/11", "2/1")
