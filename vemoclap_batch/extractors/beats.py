"""Embedding of every 3 s of a video's audio, and the sound events in it: BEATs."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources as package_files
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from vemoclap_batch.extractors.base import WAVEFORM, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.pretrained import FeatureSettings, Pretrained, autocast
from vemoclap_batch.media.clip import SAMPLE_RATE, Clip
from vemoclap_batch.media.windows import clip_windows

#: A mirror of the authors' BEATs iter3+ AS2M, fine-tuned on AS2M (cpt2), whose own links are dead.
PUBLISHED = (
    "hf:WeiChihChen/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2/BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt"
)
#: Samples in a window, and from the start of one to that of the next.
WINDOW, HOP = 3 * SAMPLE_RATE, 3 * SAMPLE_RATE // 2
#: Sound events listed for a video.
EVENTS = 5
#: Windows in one pass.
CPU_BATCH, GPU_BATCH = 8, 64


class BeatsSettings(FeatureSettings):
    """Settings of :class:`Beats`."""

    model: str = Field(PUBLISHED, description="a checkpoint file in the format of BEATs' authors")
    windows: int = Field(16, ge=1, description="longer audio keeps this many windows, evenly spaced")
    pad_short: bool = Field(True, description="audio shorter than a window is padded to one window")


class Beats(Pretrained):
    """The mean over the tokens of each window of 3 s, half overlapping, by a checkpoint of the authors' format.

    Column ``events``: the likeliest AudioSet classes, by the checkpoint's predictor on the mean over the windows;
    none where the checkpoint has no predictor or the video no window. A class that AudioSet does not have is listed
    by its id. The padding of short audio is masked, so that it does not count; the published program skips such
    audio, as ``pad_short: false`` does.
    """

    name = "beats"
    Settings = BeatsSettings
    inputs = (WAVEFORM,)
    sequence = True
    columns = {
        "events": pa.list_(pa.struct([("id", pa.string()), ("label", pa.string()), ("probability", pa.float32())]))
    }
    spaces = {PUBLISHED: "vemoclap/beats-iter3plus-as2m-cpt2"}
    settings: BeatsSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        from vemoclap_batch.networks.beats import load_beats

        network = load_beats(resources.models["model"])
        self._check_width(network.config.encoder_embed_dim)
        if network.predictor is not None and not network.labels:
            raise ValueError(f"{self.settings.model} has a predictor, but no label_dict that names its classes")
        self._network = network.to(resources.device)
        self._batches = Batches.for_device(resources.device, CPU_BATCH, GPU_BATCH)

    def _extract(self, clips: Sequence[Clip]) -> list[Result]:
        cut = [self._windows(clip) for clip in clips]
        embeddings = self._batches.run_groups(self._embed, (windows for _, windows in cut))
        return [self._result(start_s, windows, rows) for (start_s, windows), rows in zip(cut, embeddings, strict=True)]

    def _windows(self, clip: Clip) -> tuple[np.ndarray, list[np.ndarray]]:
        """Where the windows of a clip start, in seconds of the video, and their samples [at most 48000]."""
        start_s, windows = clip_windows(clip, WINDOW, HOP, self.settings.windows)
        if not self.settings.pad_short and any(len(window) < WINDOW for window in windows):
            return start_s[:0], []
        return start_s, windows

    def _result(self, start_s: np.ndarray, windows: list[np.ndarray], rows: list[np.ndarray]) -> Result:
        feature = np.array(rows, np.float32).reshape(-1, self.settings.width)
        end_s = start_s + np.array([len(window) / SAMPLE_RATE for window in windows], np.float64)
        return Result(feature, start_s, end_s, {"events": self._events(feature)})

    def _embed(self, windows: Sequence[np.ndarray]) -> Iterable[np.ndarray]:
        """The embedding float32 [width] of each window float32 [at most 48000]."""
        import torch

        waveforms = np.zeros((len(windows), WINDOW), np.float32)
        for row, window in enumerate(windows):
            waveforms[row, : len(window)] = window
        lengths = torch.tensor([len(window) for window in windows])
        device = self.resources.device
        with torch.inference_mode(), autocast(device, self._precision):
            embeddings = self._network.embed(torch.from_numpy(waveforms).to(device), lengths.to(device))
            return embeddings.float().cpu().numpy()

    def _events(self, feature: np.ndarray) -> list[dict[str, Any]]:
        """The likeliest events of a video whose windows are ``feature`` [n, width]."""
        if not len(feature) or self._network.predictor is None:
            return []
        import torch

        with torch.inference_mode():
            mean = torch.from_numpy(feature).to(self.resources.device).mean(0)
            probabilities = self._network.events(mean).cpu().numpy()
        # Equally likely ones in the order of the classes.
        likeliest = [(self._network.labels[at], at) for at in np.argsort(-probabilities, kind="stable")[:EVENTS]]
        return [
            {"id": id_, "label": audioset_names().get(id_, id_), "probability": float(probabilities[at])}
            for id_, at in likeliest
        ]


@cache
def audioset_names() -> dict[str, str]:
    """AudioSet's 527 classes: id in its ontology → display name."""
    text = (package_files.files("vemoclap_batch.networks") / "audioset_labels.csv").read_text("utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {row["id"]: row["name"] for row in rows}
