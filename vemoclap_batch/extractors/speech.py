"""Where a clip has speech, what of it is transcribed at once, and when in the clip what was heard was said."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vemoclap_batch.extractors.whisper_languages import Spoken, Turn
from vemoclap_batch.media.clip import SAMPLE_RATE

#: Samples of a window: Whisper takes 30 s at once.
WINDOW = 30 * SAMPLE_RATE
#: Samples of one frame of the encoder's output.
FRAME = 320
#: A pause of so many milliseconds parts two utterances.
PAUSE_MS = 500
#: A longer pause is not transcribed; what is left of it on either side, in samples. Whisper hears words otherwise where
#: a pause is cut out, and these are the pauses that faster-whisper cuts out: of 2 s, found by frames of 512 samples.
LONGEST_PAUSE, MARGIN = 63 * 512, round(0.4 * SAMPLE_RATE)
#: Speech that has a language of its own is at least so long; languages are told by slices of so many samples.
STRETCH, SLICE = 3 * SAMPLE_RATE, 5 * SAMPLE_RATE
#: Words begin and end at most so much before and after an utterance.
_SLACK = round(0.1 * SAMPLE_RATE)


@dataclass
class Speech:
    """The speech of one clip, and how much of it was transcribed.

    Attributes:
        utterances: samples [start, end) of the clip's waveform in which somebody speaks.
        pieces: samples of the waveform that are transcribed: utterances, short pauses between them, margins.
        audio: float32 [samples], the pieces one after another.
        done: samples of ``audio`` that were transcribed.
        known: the language of the next window, and where in ``audio`` that ends at a change of language.
        looped: whether the last window was a loop, of which no more than the first repetition was left out of ``done``.
        heard: the languages so far, each with the sum of its windows' seconds times probability.
        silence: samples of it after a window's speech, as in :func:`filled_up`.
        whole: whether the next window is filled up to 30 s all the same.
    """

    utterances: list[tuple[int, int]]
    pieces: list[tuple[int, int]]
    audio: np.ndarray
    done: int = 0
    known: tuple[Spoken, int] | None = None
    looped: bool = False
    heard: dict[str, float] = field(default_factory=dict)
    silence: int | None = None
    whole: bool = False

    @classmethod
    def of(cls, waveform: np.ndarray, utterances: Sequence[tuple[int, int]], silence: int | None = None) -> Speech:
        """The utterances of a waveform."""
        pieces = []
        for group in _groups(utterances):
            # A pause at the end is as long as what is left: a word may fade there below what is taken for speech.
            last = group[-1][1] + MARGIN if len(waveform) - group[-1][1] > LONGEST_PAUSE else len(waveform)
            pieces.append((max(0, group[0][0] - MARGIN), min(len(waveform), last)))
        parts = [waveform[start:end] for start, end in pieces]
        return cls(list(utterances), pieces, np.concatenate([np.zeros(0, np.float32), *parts]), silence=silence)

    @property
    def left(self) -> int:
        """Samples that are still to be transcribed."""
        return len(self.audio) - self.done

    @property
    def size(self) -> int:
        """Samples of the next window without the silence that fills it up."""
        end = len(self.audio) if self.known is None else self.known[1]
        return min(WINDOW, end - self.done)

    @property
    def filled(self) -> int:
        """Samples of the next window with that silence."""
        return filled_size(self.size, None if self.whole else self.silence)

    def window(self) -> np.ndarray:
        """The next window, float32 [filled]."""
        return filled_up(self.audio[self.done : self.done + self.size], None if self.whole else self.silence)

    def turn(self, turn: Turn) -> None:
        """Let the next window end where its language does."""
        self.known = (turn.spoken, self.done + turn.end)

    def advance(self, step: int, spoken: Spoken, looped: bool = False) -> None:
        """Go on to the next window: so many samples after this one, whose language it was; it may have been a loop."""
        self.looped, self.whole = looped, False
        self.heard[spoken.code] = self.heard.get(spoken.code, 0.0) + spoken.probability * step / SAMPLE_RATE
        self.done += step
        if self.known is not None and self.done >= self.known[1]:
            self.known = None

    def stretches(self) -> list[tuple[int, int]]:
        """The next window's speech between pauses, in samples of the window: one after another, 3 s or longer each."""
        found: list[tuple[int, int]] = []
        for start, end in self._utterances_of_window():
            if found and (found[-1][1] - found[-1][0] < STRETCH or end - start < STRETCH):
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return found or [(0, self.size)]

    def slices(self, start: int, end: int) -> list[int]:
        """The slices of a stretch by which its language is told: frames of the encoder's output where they start."""
        count = max(1, round((end - start) / SLICE))
        middles = start + (np.arange(count) + 0.5) * (end - start) / count
        # A slice of a short stretch has some of the speech around it.
        last = max(0, self.size - SLICE)
        return [int(min(max(middle - SLICE / 2, 0), last)) // FRAME for middle in middles]

    def _utterances_of_window(self) -> list[tuple[int, int]]:
        first, last = self.done, self.done + self.size
        inside = []
        offset = at = 0
        for start, end in self.pieces:
            while at < len(self.utterances) and self.utterances[at][0] < end:
                begin, stop = (sample - start + offset for sample in self.utterances[at])
                begin, stop = max(begin, first), min(stop, last)
                if begin < stop:
                    inside.append((begin - first, stop - first))
                at += 1
            offset += end - start
        return inside

    def place(self, start_s: float, end_s: float) -> tuple[float, float, int]:
        """When in the waveform a word was said.

        A word that reaches into another utterance belongs to the one that its middle is in, or nearest to.

        Args:
            start_s: seconds from the start of the next window.
            end_s: the same.

        Returns:
            Seconds from the start of the waveform, within the utterance, and the number of the utterance.
        """
        first, last = (self.done + round(seconds * SAMPLE_RATE) for seconds in (start_s, end_s))
        middle, piece = self._sample((first + last) // 2)
        shift = middle - (first + last) // 2
        number = self._utterance(middle, piece)
        begin, stop = self.utterances[number]
        low, high = max(begin - _SLACK, self.pieces[piece][0]), min(stop + _SLACK, self.pieces[piece][1])
        start, end = (min(max(sample + shift, low), high) for sample in (first, last))
        return start / SAMPLE_RATE, end / SAMPLE_RATE, number

    def _sample(self, sample: int) -> tuple[int, int]:
        """A sample of the audio as one of the waveform, and the number of its piece."""
        for number, (start, end) in enumerate(self.pieces):
            if sample < end - start:
                return start + sample, number
            sample -= end - start
        return self.pieces[-1][1], len(self.pieces) - 1

    def _utterance(self, sample: int, piece: int) -> int:
        """The utterance of a piece that a sample of the waveform is in, or nearest to."""
        first = bisect.bisect_left(self.utterances, (self.pieces[piece][0],))
        last = bisect.bisect_left(self.utterances, (self.pieces[piece][1],))
        return min(range(first, last), key=lambda at: _distance(sample, *self.utterances[at]))


def filled_size(size: int, silence: int | None) -> int:
    """Samples of a window that holds so many of speech: in whole seconds, so that windows go into batches."""
    return WINDOW if silence is None else min(WINDOW, -(-(size + silence) // SAMPLE_RATE) * SAMPLE_RATE)


def filled_up(audio: np.ndarray, silence: int | None) -> np.ndarray:
    """Speech, float32 [at most 480000], with digital silence after it.

    Args:
        audio: the speech.
        silence: at least so many samples, as far as 30 s hold them. None: up to 30 s, as in Whisper's training.
    """
    return np.pad(audio, (0, filled_size(len(audio), silence) - len(audio)))


def _distance(sample: int, start: int, end: int) -> int:
    return max(start - sample, sample - end, 0)


def utterances(waveform: np.ndarray) -> list[tuple[int, int]]:
    """Where somebody speaks, by Silero's voice activity detector: ranges of samples, without margins."""
    from faster_whisper.vad import VadOptions, get_speech_timestamps

    # At its default of one half. At 0.8 it keeps silent about most music and animals, and about speech in noisy videos.
    options = VadOptions(min_silence_duration_ms=PAUSE_MS, speech_pad_ms=0)
    return [(chunk["start"], chunk["end"]) for chunk in get_speech_timestamps(waveform, options)]


def _groups(utterances: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Utterances with no more than :data:`LONGEST_PAUSE` between one and the next."""
    groups: list[list[tuple[int, int]]] = []
    for utterance in utterances:
        if groups and utterance[0] - groups[-1][-1][1] <= LONGEST_PAUSE:
            groups[-1].append(utterance)
        else:
            groups.append([utterance])
    return groups
