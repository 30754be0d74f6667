"""A caption of the frame with most faces and lines of text: BLIP, or another image-captioning model of transformers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import FRAMES, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches, autocast
from vemoclap_batch.extractors.pretrained import load_strictly
from vemoclap_batch.media.clip import Clip

PUBLISHED = "hf:Salesforce/blip-image-captioning-base"
#: Frames in one pass, each with its beams.
CPU_BATCH, GPU_BATCH = 4, 32


class CaptionSettings(ExtractorSettings):
    """Settings of :class:`Caption`."""

    model: str = Field(PUBLISHED, description="a folder with an image-captioning model of transformers")
    max_tokens: int = Field(40, ge=1, le=512, description="a caption ends here at the latest")
    beams: int = Field(3, ge=1, le=20, description="wordings that are followed at a time; BLIP's authors took 3")
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="float16 on a GPU, else float32"
    )


class Caption(Extractor):
    """Columns ``caption``, and ``frame`` and ``time_s`` of the frame that it describes; all null without frames."""

    name = "caption"
    Settings = CaptionSettings
    inputs = (FRAMES,)
    columns = {"caption": pa.string(), "frame": pa.int32(), "time_s": pa.float64()}
    settings: CaptionSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Load the model.

        Raises:
            NotADirectoryError: the reference names a file.
            ValueError: weights are missing, of another shape, or no plain weights.
        """
        super().__init__(settings, resources)
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

        torch.set_num_threads(resources.threads)
        folder = resources.models["model"]
        self._precision = "float32" if self.settings.precision == "auto" else self.settings.precision
        self._network = load_strictly(AutoModelForImageTextToText, folder).to(resources.device)
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        # The two backends give slightly different pixels.
        self._prepare = AutoImageProcessor.from_pretrained(folder, backend="torchvision", **local)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        self._batches = Batches(CPU_BATCH if resources.device == "cpu" else GPU_BATCH)

    @classmethod
    def references(cls, settings: ExtractorSettings) -> dict[str, str]:
        """The model."""
        assert isinstance(settings, CaptionSettings)
        return {"model": settings.model}

    def _extract(self, clips: Sequence[Clip]) -> list[Result | Failure]:
        """Describe one frame of each clip, several clips at a time."""
        chosen = [frame_to_caption(clip) for clip in clips]
        seen = [clip.frames[number] for clip, number in zip(clips, chosen, strict=True) if number is not None]
        captions = iter(self._batches.run(self._describe, seen))
        results: list[Result | Failure] = []
        for clip, number in zip(clips, chosen, strict=True):
            extras = dict.fromkeys(self.columns)
            if number is not None:
                extras = {"caption": next(captions), "frame": number, "time_s": float(clip.frame_times[number])}
            results.append(Result(np.zeros((0, 0), np.float32), extras=extras))
        return results

    def _describe(self, frames: Sequence[np.ndarray]) -> list[str]:
        """A caption of each frame uint8 [h, w, 3]."""
        import torch

        inputs = self._prepare(list(frames), return_tensors="pt").to(self.resources.device)
        with torch.inference_mode(), autocast(self.resources.device, self._precision):
            tokens = self._network.generate(
                **inputs, max_new_tokens=self.settings.max_tokens, num_beams=self.settings.beams, do_sample=False
            )
        return [text.strip() for text in self._tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def frame_to_caption(clip: Clip) -> int | None:
    """The frame in which most was found, a face counting as much as a line of text; None without frames.

    Among equals the one nearest to the middle, the earlier of two: so the middle one when nothing was found.

    Raises:
        ValueError: something was found in a frame that the clip does not have.
    """
    count = len(clip.frames)
    if not count:
        return None
    found = np.zeros(count, int)
    for name, numbers in clip.detections.items():
        if len(numbers) and not 0 <= min(numbers) <= max(numbers) < count:
            raise ValueError(f"{name} found something in frame {max(numbers)}; the clip has {count}")
        np.add.at(found, numbers, 1)
    return min(range(count), key=lambda number: (-found[number], abs(2 * number - (count - 1)), number))
