"""Time stamps that start again or jump become one time line that goes on."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from vemoclap_batch.media.sampling import MAX_GAP_S

#: A step back by more than this is a new start; a smaller one is the order of decoding, or rounding.
BACK_S = 0.7
#: So many packets may lie between the order of decoding and that of showing (H.264 and HEVC allow as much).
_REORDERED = 16
#: By how much later than the part before a new part may begin.
_LATER_S = 0.3
#: So many offsets back one is looked for: streams of a file are not further apart, and broken ones may have thousands.
_KNOWN = 8
#: In formats whose time stamps may jump (transport streams, Ogg), a longer step forward is such a jump. The ffmpeg
#: program has the same limit (``-dts_delta_threshold``).
JUMP_S = 10.0
#: In others, while there is no audio: a still image may stand for long.
STILL_S = 3600.0


@dataclass
class _Stream:
    """Where one stream is: when its next packet is expected, and by which of the offsets its packets are placed."""

    expected_s: float
    offset: int
    recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=_REORDERED))


class Timeline:
    """Places the packets of one file on one time line.

    A file may hold parts that were joined as they are (``cat``, a recorder that started again, adverts in a live
    stream): time starts again, or jumps, in all streams at about the same place of the file. All that follows is moved
    by one offset, so that it goes on where the longest stream had ended.

    Attributes:
        restarts: how often time went back.
        jumps: how often it jumped forward.
        end_s: the latest end of a packet that was placed, in seconds.
    """

    def __init__(self, may_jump: bool, has_audio: bool = True) -> None:
        """Start a time line of a format that may let time stamps jump; audio has no long pauses."""
        self._limit_s = JUMP_S if may_jump else MAX_GAP_S if has_audio else STILL_S
        self._offsets = [0.0]
        self._streams: dict[int, _Stream] = {}
        self.restarts = self.jumps = 0
        self.end_s = float("-inf")

    def offset_s(self, stream: int, dts_s: float | None, start_s: float, duration_s: float) -> float:
        """What the time stamps of the next packet in the file are to be moved by, in seconds.

        Args:
            stream: which stream it belongs to.
            dts_s: its time stamp in the order of decoding; None, as in the first packets of some files, tells nothing.
            start_s: when it is shown.
            duration_s: for how long; 0 where the file does not say.
        """
        state = self._streams.get(stream)
        if dts_s is None:
            offset = self._offsets[state.offset if state is not None else -1]
        else:
            if state is None:
                # Whichever part it belongs to, it is near what else lies there.
                state = self._streams[stream] = _Stream(max(self.end_s, dts_s), 0)
                state.offset = self._nearest(state, dts_s)
                state.expected_s = dts_s + self._offsets[state.offset]
            step = dts_s + self._offsets[state.offset] - state.expected_s
            # Another stream may have come to a new part before this one.
            if state.offset + 1 < len(self._offsets) or not -BACK_S <= step <= self._limit_s:
                state.offset = self._which_offset(state, dts_s, start_s)
            offset = self._offsets[state.offset]
            state.expected_s = dts_s + offset + duration_s
            state.recent_s.append(dts_s + offset)
        self.end_s = max(self.end_s, start_s + offset + duration_s)
        return offset

    def _which_offset(self, state: _Stream, dts_s: float, start_s: float) -> int:
        """The number of the offset that fits best, a new one where none fits."""
        best = self._nearest(state, dts_s)
        step = dts_s + self._offsets[best] - state.expected_s
        # While another stream goes on, a step forward is a pause of this one.
        ahead = step > self._limit_s and dts_s + self._offsets[best] - self.end_s > self._limit_s
        # Where the order of decoding is not known, frames go back, but not behind so many others.
        back = step < -BACK_S and dts_s + self._offsets[best] <= min(state.recent_s, default=0.0) + _LATER_S
        if not (ahead or back):
            return best
        # The rest of a stream's earlier part may have come late: it is where the others are.
        beside = self._beside(state, dts_s)
        if beside is not None:
            return beside
        self.jumps += ahead
        self.restarts += not ahead
        self._offsets.append(self.end_s - start_s)
        return len(self._offsets) - 1

    def _beside(self, state: _Stream, dts_s: float) -> int | None:
        """The number of a known offset that puts a packet where another stream is; None where none does."""
        for other in self._streams.values():
            for number in range(max(len(self._offsets) - _KNOWN, 0), len(self._offsets)):
                if other is not state and abs(dts_s + self._offsets[number] - other.expected_s) < BACK_S:
                    return number
        return None

    def _nearest(self, state: _Stream, dts_s: float) -> int:
        """The number of the known offset, of the stream's own and later ones, that puts a packet where it should be."""
        later = range(max(state.offset + 1, len(self._offsets) - _KNOWN), len(self._offsets))
        return min([state.offset, *later], key=lambda number: abs(dts_s + self._offsets[number] - state.expected_s))
