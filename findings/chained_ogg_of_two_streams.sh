#!/usr/bin/env bash
# Ogg files with video and sound put one after the other, each with serial numbers of its own, as the format asks
# (RFC 3533, section 4: a chained bitstream).
#
# Guess: FFmpeg reads all links of the chain, as it does for music.
# Seen with PyAV 18.1.0 (FFmpeg 8.1.2): it ends at the first link with PatchWelcomeError ("not yet implemented"); so does
# the ffmpeg program of imageio-ffmpeg 0.8.1, which ends with exit status 0. If both links have the same serial numbers,
# which the format forbids, both are read.
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
from pathlib import Path

import av
from imageio_ffmpeg import get_ffmpeg_exe

ffmpeg = [get_ffmpeg_exe(), "-v", "error", "-y"]
source = ["-f", "lavfi", "-i", "testsrc2=size=160x120:rate=10:duration=2", "-f", "lavfi", "-i", "sine=duration=2"]
codecs = ["-c:v", "libtheora", "-c:a", "libvorbis"]
for serial in ("10", "20"):
    subprocess.run([*ffmpeg, *source, *codecs, "-serial_offset", serial, f"{serial}.ogv"], check=True)


def packets(*links):
    Path("chain.ogv").write_bytes(b"".join(Path(f"{link}.ogv").read_bytes() for link in links))
    found, error = 0, None
    with av.open("chain.ogv") as container:
        try:
            for packet in container.demux(video=0):
                found += bool(packet.size)
        except av.FFmpegError as caught:
            error = type(caught).__name__
    done = subprocess.run([*ffmpeg[:1], "-v", "error", "-i", "chain.ogv", "-fps_mode", "passthrough", "-f", "rawvideo",
                           "-pix_fmt", "gray", "-"], capture_output=True)
    return found, error, len(done.stdout) // (160 * 120), done.returncode


own, same = packets("10", "20"), packets("10", "10")
print(f"numbers of their own: {own[0]} packets by PyAV, then {own[1]}; {own[2]} frames by ffmpeg, exit status {own[3]}")
print(f"the same numbers: {same[0]} packets by PyAV, then {same[1]}; {same[2]} frames by ffmpeg")
assert own == (20, "PatchWelcomeError", 20, 0), own
assert same[0] >= 40 and same[1] is None and same[2] >= 39, same
EOF
echo "as described"
