"""Embedding of every 3 s of a video's sound, and what is to be heard in it: BEATs."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from functools import cache
from importlib import resources as package_files
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import WAVEFORM, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches, autocast
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip
from vemoclap_batch.media.windows import clip_windows
from vemoclap_batch.models.references import space_of

#: A mirror of the authors' BEATs iter3+ AS2M, fine-tuned on AS2M (cpt2), whose own links are dead.
PUBLISHED = (
    "hf:WeiChihChen/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt"
)
SPACES = {PUBLISHED: "vemoclap/beats-iter3plus-as2m-cpt2"}
#: Samples in a window, and from the start of one to that of the next.
WINDOW, HOP = 3 * SAMPLE_RATE, 3 * SAMPLE_RATE // 2
#: How many events a video is given.
EVENTS = 5
#: Windows in one pass.
CPU_BATCH, GPU_BATCH = 8, 64


class BeatsSettings(ExtractorSettings):
    """Settings of :class:`Beats`."""

    model: str = Field(PUBLISHED, description="a checkpoint file in the format of BEATs' authors")
    windows: int = Field(16, ge=1, description="a longer sound keeps this many windows, evenly spaced")
    pad_short: bool = Field(True, description="a sound shorter than a window is one window all the same")
    width: int = Field(768, ge=1, description="of the embedding; checked when the model is loaded")
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="float16 on a GPU, else float32"
    )
    space: str | None = Field(None, description="feature space; without it, named after the model")


class Beats(Extractor):
    """The mean over the tokens of each window of 3 s, half overlapping, by a checkpoint of the authors' format.

    Column ``events``: the likeliest AudioSet classes, by the checkpoint's predictor on the mean over the windows;
    none where a checkpoint has no predictor or a video no window. A class that AudioSet does not have is called by
    its id.

    A sound shorter than a window is padded, and the padding masked, so that it counts for nothing (the published
    program throws such sounds away, as ``pad_short: false`` does). The default checkpoint comes from a mirror of the
    authors' file.
    """

    name = "beats"
    Settings = BeatsSettings
    inputs = (WAVEFORM,)
    sequence = True
    columns = {
        "events": pa.list_(pa.struct([("id", pa.string()), ("label", pa.string()), ("probability", pa.float32())]))
    }
    settings: BeatsSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Load the model.

        Raises:
            OSError: the checkpoint cannot be read.
            ValueError: it is not one of BEATs, is broken, says too little of its classes, or has another width than
                the settings say.
        """
        super().__init__(settings, resources)
        import torch

        from vemoclap_batch.networks.beats import load_beats

        torch.set_num_threads(resources.threads)
        network = load_beats(resources.models["model"])
        width = network.config.encoder_embed_dim
        if width != self.settings.width:
            raise ValueError(
                f"width = {self.settings.width}: {self.settings.model} makes embeddings of {width}; set width={width}"
            )
        if network.predictor is not None and not network.labels:
            raise ValueError(f"{self.settings.model} has a predictor, but no label_dict that names its classes")
        self._network = network.to(resources.device)
        self._precision = "float32" if self.settings.precision == "auto" else self.settings.precision
        self._batches = Batches(CPU_BATCH if resources.device == "cpu" else GPU_BATCH)

    @classmethod
    def space(cls, settings: ExtractorSettings) -> str:
        """Named after the model, unless the settings name it."""
        assert isinstance(settings, BeatsSettings)
        return settings.space or space_of(settings.model, SPACES)

    @classmethod
    def width(cls, settings: ExtractorSettings) -> int:
        """As the settings say."""
        assert isinstance(settings, BeatsSettings)
        return settings.width

    @classmethod
    def references(cls, settings: ExtractorSettings) -> dict[str, str]:
        """The checkpoint."""
        assert isinstance(settings, BeatsSettings)
        return {"model": settings.model}

    def _extract(self, clips: Sequence[Clip]) -> list[Result | Failure]:
        """Embed the windows of all clips, in full batches across clips."""
        cut = [self._windows(clip) for clip in clips]
        rows = iter(self._batches.run(self._embed, [sound for _, sounds in cut for sound in sounds]))
        results: list[Result | Failure] = []
        for start_s, sounds in cut:
            feature = np.array(list(itertools.islice(rows, len(sounds))), np.float32)
            feature = feature.reshape(len(sounds), self.settings.width)
            end_s = start_s + np.array([len(sound) / SAMPLE_RATE for sound in sounds], np.float64)
            results.append(Result(feature, start_s, end_s, {"events": self._events(feature)}))
        return results

    def _windows(self, clip: Clip) -> tuple[np.ndarray, list[np.ndarray]]:
        """Where the windows of a clip start, in seconds of the video, and their sounds [at most 48000]."""
        start_s, sounds = clip_windows(clip, WINDOW, HOP, self.settings.windows)
        if not self.settings.pad_short and any(len(sound) < WINDOW for sound in sounds):
            return start_s[:0], []
        return start_s, sounds

    def _embed(self, sounds: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The embedding float32 [width] of each of some sounds float32 [at most 48000]."""
        import torch

        waveform = np.zeros((len(sounds), WINDOW), np.float32)
        for row, sound in enumerate(sounds):
            waveform[row, : len(sound)] = sound
        lengths = torch.tensor([len(sound) for sound in sounds])
        with torch.inference_mode(), autocast(self.resources.device, self._precision):
            embeddings = self._network.embed(
                torch.from_numpy(waveform).to(self.resources.device), lengths.to(self.resources.device)
            )
            return list(embeddings.float().cpu().numpy())

    def _events(self, feature: np.ndarray) -> list[dict[str, Any]]:
        """The likeliest events of a video whose windows are ``feature`` [n, width]."""
        if not len(feature) or self._network.predictor is None:
            return []
        import torch

        with torch.inference_mode():
            mean = torch.from_numpy(feature).to(self.resources.device).mean(0)
            probabilities = self._network.events(mean).cpu().numpy()
        # Equally likely ones in the order of the classes.
        likeliest = np.argsort(-probabilities, kind="stable")[:EVENTS]
        ids = [self._network.labels[index] for index in likeliest]
        return [
            {"id": id_, "label": audioset_names().get(id_, id_), "probability": float(probabilities[index])}
            for id_, index in zip(ids, likeliest, strict=True)
        ]


@cache
def audioset_names() -> dict[str, str]:
    """AudioSet's 527 classes: id in its ontology -> display name."""
    text = (package_files.files("vemoclap_batch.networks") / "audioset_labels.csv").read_text("utf-8")
    return {
        row["id"]: row["name"] for row in csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    }
