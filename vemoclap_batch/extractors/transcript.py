"""From what Whisper wrote of a window to the rows of a transcript: words with times, segments, and what is left out."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from vemoclap_batch.extractors.speech import Speech
from vemoclap_batch.extractors.whisper_languages import CERTAIN, Spoken
from vemoclap_batch.media.clip import SAMPLE_RATE

#: More compressible is a loop, as in Whisper itself; of one nothing is left where that is no more than so many words.
LOOP_COMPRESSION, LOOP_REST = 2.4, 2
#: Probably no speech *and* unsure is no speech. Whisper's own thresholds of 0.6 and -1.0 keep most of what it invents
#: on music; recorded speech stays below 0.35, with noise or music at 10 dB too.
NO_SPEECH, UNSURE = 0.5, -0.8
#: With less silence after it than in Whisper's training, a sound is taken for speech more readily.
NO_SPEECH_SHORT = 0.3
#: Below this log probability, a window's words are invented. Whisper would sample other words, different each time.
INVENTED = -1.25
#: So many words that were there before in the same window begin the repetition of a loop.
LOOP_WORDS = 4
#: Laughter in letters, without the spaces: two syllables or more.
_LAUGHTER = re.compile(r"w?o*(?:[bmw]?u?a*h+[aeiou]+|m*h+m+){2,}h*|h{4,}")
#: What Whisper knows from the ends of films: left out where it is a whole window and unsure, too.
_STOCK = re.compile(r"(?:thanks|thankyou)(?:somuch)?(?:forwatching)?|you|(?:bye)+")
_STOPS = tuple(".,;!?。、！？")
#: Seconds between two words of a segment that part it, if a pause of the speech lies between them.
SPLIT_S = 0.7

SEGMENT = pa.struct(
    [
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("text", pa.string()),
        ("no_speech_probability", pa.float32()),
        ("average_log_probability", pa.float32()),
        ("language", pa.string()),
        ("language_probability", pa.float32()),
    ]
)
WORD = pa.struct(
    [("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string()), ("probability", pa.float32())]
)
ORIGINAL = pa.struct([("start_s", pa.float64()), ("end_s", pa.float64()), ("text", pa.string())])
DROPPED = pa.struct([*ORIGINAL, ("reason", pa.string())])


@dataclass(frozen=True)
class Decoded:
    """Whisper's output for one window."""

    tokens: list[int]
    text: str
    no_speech_probability: float
    average_log_probability: float
    no_speech_limit: float = NO_SPEECH

    @property
    def loops(self) -> bool:
        """Whether it repeats itself; real speech compresses less."""
        raw = self.text.encode()
        return len(raw) > LOOP_COMPRESSION * len(zlib.compress(raw))

    @property
    def doubt(self) -> str | None:
        """Why the window as a whole is taken for one without speech; None where it is not."""
        if self.average_log_probability < INVENTED:
            return "improbable"
        if self.no_speech_probability > self.no_speech_limit and self.average_log_probability < UNSURE:
            return "no speech"
        if self.no_speech_probability > self.no_speech_limit and self.loops:
            return "loop"
        letters = re.sub(r"\W", "", self.text.lower())
        if _STOCK.fullmatch(letters) and self.average_log_probability < UNSURE:
            return "stock phrase"
        return "laughter" if _LAUGHTER.fullmatch(letters) else None


class Aligned(NamedTuple):
    """A word in seconds of its window; the text begins with a space where the language has such."""

    start_s: float
    end_s: float
    text: str
    probability: float
    segment: int


@dataclass(frozen=True)
class Window:
    """What was heard in a window.

    Attributes:
        spoken: the language.
        step: samples after which the next window starts.
        decoded: what Whisper wrote.
        words: of it, up to ``step``.
        original: the words in the language spoken, where ``words`` are a translation.
        loop: the words that only repeat earlier ones.
    """

    spoken: Spoken
    step: int
    decoded: Decoded
    words: list[Aligned]
    original: list[Aligned] | None = None
    loop: Sequence[Aligned] = ()


class Word(NamedTuple):
    """A word in seconds of the video, in one of the clip's utterances."""

    start_s: float
    end_s: float
    text: str
    probability: float
    segment: int
    utterance: int


@dataclass
class Transcript:
    """The rows of one clip."""

    segments: list[dict[str, Any]] = field(default_factory=list)
    words: list[dict[str, Any]] = field(default_factory=list)
    original: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)

    def add(self, window: Window, speech: Speech, offset_s: float) -> None:
        """Add a window, which is the next one of its clip's speech.

        Args:
            window: what was heard in it.
            speech: of the clip; stays where it is.
            offset_s: the second of the video in which the waveform starts.
        """
        of_window = {
            "no_speech_probability": window.decoded.no_speech_probability,
            "average_log_probability": window.decoded.average_log_probability,
            "language": window.spoken.code,
            "language_probability": window.spoken.probability,
        }
        self.dropped += _rows(_placed(window.loop, speech, offset_s), reason="loop")
        placed = _placed(window.words, speech, offset_s)
        reason = window.decoded.doubt
        if reason is None and window.decoded.loops and len(placed) <= LOOP_REST:
            reason = "loop"
        if reason is not None:
            self.dropped += _rows(placed, reason=reason)
            return
        self.segments += _rows(placed, **of_window)
        self.words += [
            {"start_s": word.start_s, "end_s": word.end_s, "text": word.text.strip(), "probability": word.probability}
            for word in placed
        ]
        self.original += _rows(placed if window.original is None else _placed(window.original, speech, offset_s))

    def columns(self) -> dict[str, Any]:
        """The values of the extractor's columns."""
        language, probability = self._language()
        return {
            "text": " ".join(row["text"] for row in self.segments),
            "text_original": " ".join(row["text"] for row in self.original),
            "language": language,
            "language_probability": probability,
            "language_uncertain": None if probability is None else probability < CERTAIN,
            "segments": self.segments,
            "words": self.words,
            "segments_original": self.original,
            "dropped": self.dropped,
        }

    def _language(self) -> tuple[str | None, float | None]:
        """The language that most of the speech is in; without any segment it was a guess about a noise."""
        seconds: dict[str, float] = {}
        weighted: dict[str, float] = {}
        for row in self.segments:
            code, length = row["language"], row["end_s"] - row["start_s"] + 1e-3
            seconds[code] = seconds.get(code, 0.0) + length
            weighted[code] = weighted.get(code, 0.0) + length * row["language_probability"]
        if not seconds:
            return None, None
        code = max(seconds, key=lambda name: (seconds[name], name))
        return code, weighted[code] / seconds[code]


def _placed(words: Sequence[Aligned], speech: Speech, offset_s: float) -> list[Word]:
    """Words in seconds of the video."""
    found = []
    for word in words:
        start_s, end_s, utterance = speech.place(word.start_s, word.end_s)
        found.append(Word(offset_s + start_s, offset_s + end_s, word.text, word.probability, word.segment, utterance))
    return found


def _rows(words: Sequence[Word], **columns: Any) -> list[dict[str, Any]]:
    """Whisper's segments of these words, cut where the speech pauses in the middle of one; with further columns."""
    rows = []
    for group in _groups(words):
        text = "".join(word.text for word in group).strip()
        if text:
            rows.append({"start_s": group[0].start_s, "end_s": group[-1].end_s, "text": text, **columns})
    return rows


def _groups(words: Sequence[Word]) -> Iterator[Sequence[Word]]:
    cuts = [
        at
        for at, (one, other) in enumerate(pairwise(words), 1)
        if one.segment != other.segment or (one.utterance != other.utterance and other.start_s - one.end_s >= SPLIT_S)
    ]
    for start, end in pairwise([0, *cuts, len(words)]):
        if start < end:
            yield words[start:end]


def without_loop(decoded: Decoded, words: list[Aligned]) -> list[Aligned]:
    """The words of a window up to where they first repeat themselves, if they are a loop.

    The repetition begins with what follows a comma or stop, if such is one of the last words before it.
    """
    if not decoded.loops:
        return words
    plain = [re.sub(r"\W", "", word.text.lower()) for word in words]
    seen = set()
    for at in range(len(plain) - LOOP_WORDS + 1):
        if (some := tuple(plain[at : at + LOOP_WORDS])) in seen:
            ends = [end for end in range(at, max(0, at - LOOP_WORDS), -1) if words[end - 1].text.endswith(_STOPS)]
            return words[: ends[0] if ends else at]
        seen.add(some)
    return words


def within(words: Sequence[Aligned], step: int) -> list[Aligned]:
    """The words of a window before the sample at which the next one starts, and none longer than that."""
    last_s = step / SAMPLE_RATE
    own = [word for word in words if (word.start_s + word.end_s) / 2 < last_s]
    return [word._replace(start_s=min(word.start_s, last_s), end_s=min(word.end_s, last_s)) for word in own]


def timed(
    tokens: Sequence[int], timestamp_begin: int, duration_s: float
) -> list[tuple[float, float | None, list[int]]]:
    """Cut a window's tokens at its time stamps: start and end in seconds of the window, and the tokens between.

    The last segment has no end when the window stopped in the middle of it, and no tokens when Whisper opened it (by
    two time stamps in a row) and stopped.
    """
    segments: list[tuple[float, float | None, list[int]]] = []
    start, words, opened = 0.0, [], False
    for token in tokens:
        if token < timestamp_begin:
            words.append(token)
            continue
        # A time stamp is a multiple of 20 ms.
        time = min((token - timestamp_begin) * 0.02, duration_s)
        opened = not words
        if words:
            segments.append((start, max(start, time), words))
        start, words = time, []
    if words or (opened and segments):
        segments.append((start, None, words))
    return segments


def whole_segments(decoded: Decoded, timestamp_begin: int, size: int, left: int) -> tuple[list[list[int]], int]:
    """The tokens of a window's segments, and after how many samples the next window starts.

    Args:
        decoded: of the window.
        timestamp_begin: the number of the first time stamp.
        size: samples of the window.
        left: samples of the clip from the window's start on.
    """
    found = timed(decoded.tokens, timestamp_begin, size / SAMPLE_RATE)
    start, end, last = found[-1] if found else (0.0, 0.0, [])
    step = size
    # A step of at least a second, so that a window which opens segments and never fills them ends.
    if not (decoded.loops or decoded.doubt) and start >= 1 and (not last or (end is None and size < left)):
        # Whisper broke off, or the window's end cut a sentence: the next window starts where that begins.
        found.pop()
        step = round(start * SAMPLE_RATE)
    return [tokens for _, _, tokens in found], step


def aligned_words(alignment: Sequence[Mapping[str, Any]], segments: Sequence[Sequence[int]]) -> list[Aligned]:
    """Words as faster-whisper aligns them, each with the number of the segment that its first token is in."""
    ends = np.cumsum([len(tokens) for tokens in segments])
    found, token = [], 0
    for word in alignment:
        if word["word"]:
            segment = int(np.searchsorted(ends, token, side="right"))
            probability = float(word["probability"])
            found.append(Aligned(float(word["start"]), float(word["end"]), word["word"], probability, segment))
        token += len(word["tokens"])
    return found
