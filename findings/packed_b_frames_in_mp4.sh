#!/usr/bin/env bash
# MPEG-4 video with packed B-frames (old DivX and Xvid files), copied from AVI into MP4 or MKV without encoding anew.
#
# Guess: a packet with packet.is_keyframe is a key frame, and decoding may start with it.
# Seen with PyAV 18.1.0 (FFmpeg 8.1.2) on a file that the ffmpeg of imageio-ffmpeg 0.8.1 wrote: the place-holder of a few
# bytes after a real key frame has is_keyframe, too. Who starts decoding there gets grey pictures, 70 of 255 off all that
# are in the video, while frame.is_corrupt says False and nothing is raised. Decoded from the first frame on, all are
# right, but their time stamps are not in order.
#
# Needs bash, python3 (3.11 or 3.12, x86-64 Linux) and a package index. Fails if any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.3.5 imageio-ffmpeg==0.8.1
cd "$folder"
venv/bin/python - <<'EOF'
import subprocess

import av
import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

ffmpeg = [get_ffmpeg_exe(), "-v", "error", "-y"]
video = ["-f", "lavfi", "-i", "testsrc2=size=320x240:rate=25:duration=4"]
subprocess.run([*ffmpeg, *video, "-c:v", "libxvid", "-q:v", "3", "-g", "12", "-bf", "2", "packed.avi"], check=True)
subprocess.run([*ffmpeg, "-fflags", "+genpts", "-i", "packed.avi", "-c", "copy", "packed.mp4"], check=True)
with av.open("packed.mp4") as container:
    packets = [packet for packet in container.demux(video=0) if packet.size]
holders = [packet.pts for packet in packets if packet.is_keyframe and packet.size < 20]
keys = sum(packet.is_keyframe for packet in packets)
print(f"{keys} key frames, {len(holders)} of them of less than 20 bytes")
with av.open("packed.mp4") as container:
    in_turn = [(frame.pts, frame.to_ndarray(format="rgb24").astype(int)) for frame in container.decode(video=0)]
back = sum(later[0] < earlier[0] for earlier, later in zip(in_turn, in_turn[1:]))
print(f"in turn: {len(in_turn)} frames, {back} with an earlier time stamp than the one before")
worst, marked = 0.0, 0
with av.open("packed.mp4") as container:
    for packet in container.demux(video=0):
        if packet.pts is None or packet.dts < holders[0]:
            continue
        for frame in packet.decode():
            picture = frame.to_ndarray(format="rgb24").astype(int)
            worst = max(worst, min(np.abs(picture - other).mean() for _, other in in_turn))
            marked += frame.is_corrupt
print(f"from the first of those on: a picture {worst:.0f} of 255 off all others, {marked} marked as corrupt")
assert holders and back > 5 and worst > 15 and marked == 0
EOF
echo "as described"
