"""A caption of the frame with most faces and lines of text: BLIP, or another captioning model of transformers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pydantic import Field

from vemoclap_batch.extractors import pretrained
from vemoclap_batch.extractors.base import FRAMES, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.pretrained import PrecisionSettings, Pretrained
from vemoclap_batch.media.clip import Clip

PUBLISHED = "hf:Salesforce/blip-image-captioning-base"
#: Frames in one pass, each with its beams.
CPU_BATCH, GPU_BATCH = 4, 32


class CaptionSettings(PrecisionSettings):
    """Settings of :class:`Caption`."""

    model: str = Field(PUBLISHED, description="a folder with an image-captioning model of transformers")
    max_tokens: int = Field(40, ge=1, le=512, description="longest caption, in tokens")
    beams: int = Field(3, ge=1, le=20, description="beams of the search; BLIP's authors took 3")


class Caption(Pretrained):
    """Columns ``caption``, and ``frame`` and ``time_s`` of the frame that it describes; all null without frames."""

    name = "caption"
    Settings = CaptionSettings
    inputs = (FRAMES,)
    columns = {"caption": pa.string(), "frame": pa.int32(), "time_s": pa.float64()}
    settings: CaptionSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        from transformers import AutoModelForImageTextToText

        folder = resources.models["model"]
        self._network = pretrained.load_strictly(AutoModelForImageTextToText, folder).to(resources.device)
        self._prepare = pretrained.load_image_processor(folder, "torchvision")
        self._tokenizer = pretrained.load_tokenizer(folder)
        self._batches = Batches.for_device(resources.device, CPU_BATCH, GPU_BATCH)

    def _extract(self, clips: Sequence[Clip]) -> list[Result]:
        chosen = [frame_to_caption(clip) for clip in clips]
        frames = ([] if at is None else [clip.frames[at]] for clip, at in zip(clips, chosen, strict=True))
        captions = self._batches.run_groups(self._describe, frames)
        return [self._result(*row) for row in zip(clips, chosen, captions, strict=True)]

    def _result(self, clip: Clip, frame: int | None, captions: list[str]) -> Result:
        if frame is None:
            return Result(extras=dict.fromkeys(self.columns))
        return Result(extras={"caption": captions[0], "frame": frame, "time_s": float(clip.frame_times[frame])})

    def _describe(self, frames: Sequence[np.ndarray]) -> list[str]:
        """A caption of each frame uint8 [h, w, 3]."""
        import torch

        inputs = self._prepare(list(frames), return_tensors="pt").to(self.resources.device)
        with torch.inference_mode(), pretrained.autocast(self.resources.device, self._precision):
            tokens = self._network.generate(
                **inputs, max_new_tokens=self.settings.max_tokens, num_beams=self.settings.beams, do_sample=False
            )
        return [text.strip() for text in self._tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def frame_to_caption(clip: Clip) -> int | None:
    """The frame with most detections, a face counting as much as a line of text; None without frames.

    Among equals the one nearest to the middle, the earlier of two: so the middle one without detections.

    Raises:
        ValueError: a detection is in a frame that the clip does not have.
    """
    count = len(clip.frames)
    if not count:
        return None
    detected = np.zeros(count, int)
    for name, frames in clip.detections.items():
        if len(frames) and not 0 <= min(frames) <= max(frames) < count:
            raise ValueError(f"{name} has a detection in frame {max(frames)}; the clip has {count} frames")
        np.add.at(detected, frames, 1)
    return min(range(count), key=lambda at: (-detected[at], abs(2 * at - (count - 1)), at))
