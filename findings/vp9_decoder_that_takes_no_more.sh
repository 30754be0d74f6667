#!/usr/bin/env bash
# WebM that was cut without encoding anew, so that it begins between two key frames.
#
# Guess: packets before the first key frame raise an error each, and from the key frame on there are frames.
# Seen with PyAV 18.1.0 (FFmpeg 8.1.2) on VP9: after some of these errors (InvalidDataError) the decoder takes nothing
# more. Every later packet, key frames too, raises BlockingIOError, and no frame ever comes. codec_context.flush_buffers() sets it going again. The ffmpeg of imageio-ffmpeg 0.8.1 shows the frames.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 imageio-ffmpeg==0.8.1
cd "$folder"
venv/bin/python - <<'EOF'
import subprocess
from collections import Counter
from contextlib import suppress

import av
from imageio_ffmpeg import get_ffmpeg_exe

ffmpeg = [get_ffmpeg_exe(), "-v", "error", "-y"]
video = ["-f", "lavfi", "-i", "testsrc2=size=176x144:rate=15:duration=4"]
vp9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "1M", "-g", "25"]
subprocess.run([*ffmpeg, *video, *vp9, "whole.webm"], check=True)
subprocess.run([*ffmpeg, "-i", "whole.webm", "-ss", "0.2", "-copyinkf", "-c", "copy", "cut.webm"], check=True)


def decoded(flush):
    frames, errors, keys = 0, Counter(), 0
    with av.open("cut.webm") as container:
        codec = container.streams.video[0].codec_context
        codec.thread_count = 1
        for packet in container.demux(video=0):
            keys += packet.is_keyframe
            try:
                frames += len(codec.decode(packet if packet.size else None))
            except av.FFmpegError as error:
                errors[type(error).__name__] += 1
                if flush and isinstance(error, av.BlockingIOError):
                    codec.flush_buffers()
                    with suppress(av.FFmpegError):
                        frames += len(codec.decode(packet))
    return frames, dict(errors), keys


frames, errors, keys = decoded(flush=False)
print(f"{keys} key frames, {frames} frames decoded, {errors}")
flushed, _, _ = decoded(flush=True)
shown = subprocess.run([*ffmpeg[:1], "-v", "fatal", "-i", "cut.webm", "-f", "rawvideo", "-pix_fmt", "gray", "-"],
                       check=True, capture_output=True).stdout
print(f"with flush_buffers: {flushed} frames; by ffmpeg: {len(shown) // (176 * 144)}")
assert keys >= 1 and frames == 0 and errors["BlockingIOError"] > 1
assert flushed > 20 and len(shown) // (176 * 144) > 20
EOF
echo "as described"
