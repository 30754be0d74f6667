"""Image embedding of every frame: OpenAI's CLIP ViT-B/32, or any other model of open_clip."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from vemoclap_batch.extractors.base import FRAMES, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.pretrained import FeatureSettings, Pretrained, autocast
from vemoclap_batch.media.clip import Clip

if TYPE_CHECKING:
    import torch

#: What open_clip fetches for ViT-B-32 with the tag ``openai``.
PUBLISHED = "hf:timm/vit_base_patch32_clip_224.openai"
SPACE = "vemoclap/clip-vit-b32-openai"
CONFIG = "open_clip_config.json"
#: Frames in one pass: a CPU gains nothing from more than one clip's worth, a GPU does.
CPU_BATCH, GPU_BATCH = 16, 256


class OpenClipSettings(FeatureSettings):
    """Settings of :class:`OpenClip`.

    Any image model of open_clip will do: a folder or hub repository with an ``open_clip_config.json`` describes its
    architecture and preprocessing; a weights file needs ``architecture``.
    """

    model: str = Field(PUBLISHED, description=f"a folder with {CONFIG}, or a weights file")
    architecture: str = Field(
        "ViT-B-32-quickgelu", description="open_clip's name of the architecture of a weights file; unused for a folder"
    )
    width: int = Field(512, ge=1, description="of the embedding; checked when the model is loaded")


class OpenClip(Pretrained):
    """The projected image embedding of each frame, not normalised to length 1."""

    name = "open-clip"
    Settings = OpenClipSettings
    inputs = (FRAMES,)
    sequence = True
    spaces = {PUBLISHED: SPACE, f"{PUBLISHED}/open_clip_model.safetensors": SPACE}
    settings: OpenClipSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        # The text tower is dropped.
        visual = load_open_clip(resources.models["model"], self.settings).visual
        self._network = visual.to(resources.device)
        self._prepare = preprocessing(visual.preprocess_cfg)
        self._batches = Batches.for_device(resources.device, CPU_BATCH, GPU_BATCH)
        self._check_width(self._embed([np.zeros((224, 224, 3), np.uint8)])[0].size)

    def _extract(self, clips: Sequence[Clip]) -> list[Result]:
        embeddings = self._batches.run_groups(self._embed, (clip.frames for clip in clips))
        results = []
        for clip, rows in zip(clips, embeddings, strict=True):
            times = np.asarray(clip.frame_times, np.float64)
            results.append(Result(np.array(rows, np.float32).reshape(-1, self.settings.width), times, times))
        return results

    def _embed(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        """The embeddings float32 [n, width] of frames uint8 [h, w, 3], whose sizes may differ."""
        import torch

        device = self.resources.device
        with torch.inference_mode():
            alike = [np.stack(list(group)) for _, group in itertools.groupby(frames, key=np.shape)]
            images = torch.cat([self._prepare(torch.from_numpy(group).to(device)) for group in alike])
            with autocast(device, self._precision):
                output = self._network(images)
            # CoCa gives the embedding and its tokens.
            embedding = output[0] if isinstance(output, tuple) else output
            return embedding.float().cpu().numpy()


def preprocessing(config: dict[str, Any]) -> Callable[[torch.Tensor], torch.Tensor]:
    """From frames uint8 [n, h, w, 3] to a network's input float32 [n, 3, height, width].

    Frames are scaled as unrounded tensors, so bicubic overshoots stay, as in the published program.

    Args:
        config: open_clip's preprocessing configuration.

    Raises:
        ValueError: it asks for what is not supported here.
    """
    import torch
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize

    size, mode = config["size"], config["resize_mode"]
    height, width = (size, size) if isinstance(size, int) else size
    if mode != "squash" and (mode != "shortest" or height != width):
        raise ValueError(f"images of {height}x{width}, resize_mode {mode!r}: not supported")
    if config["interpolation"] not in {"bicubic", "bilinear"}:
        raise ValueError(f"interpolation {config['interpolation']!r}: expected bicubic or bilinear")
    scaled = (height, width) if mode == "squash" else height
    resize = Resize(scaled, InterpolationMode(config["interpolation"]), antialias=True)
    steps = Compose([resize, CenterCrop((height, width)), Normalize(config["mean"], config["std"])])

    def prepare(frames: torch.Tensor) -> torch.Tensor:
        return steps(frames.permute(0, 3, 1, 2).to(torch.float32) / 255)

    return prepare


def load_open_clip(path: Path, settings: OpenClipSettings) -> Any:
    """The open_clip model in a folder or weights file, in evaluation mode, with every weight from the file.

    Raises:
        FileNotFoundError: a folder without open_clip's configuration.
        ValueError: the weights are not those of the architecture, or are not plain weights.
    """
    import open_clip

    if path.is_dir() and not (path / CONFIG).is_file():
        raise FileNotFoundError(
            f"{path} has no {CONFIG}; for another folder, name the weights file and its architecture"
        )
    name = f"local-dir:{path}" if path.is_dir() else settings.architecture
    _check(open_clip.get_model_config(name), settings)
    try:
        model = open_clip.create_model(
            name,
            pretrained=None if path.is_dir() else str(path),
            # Without this, a folder that has a configuration and no weights gives a random model.
            require_pretrained=True,
            weights_only=True,
        )
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: the weights file holds more than weights; it was not loaded") from error
    except Exception as error:
        built = CONFIG if path.is_dir() else settings.architecture
        raise ValueError(f"{path} does not hold the weights of {built}: {error}") from error
    return model.eval()


def _check(config: dict[str, Any] | None, settings: OpenClipSettings) -> None:
    """Refuse what open_clip would build, but not as it is meant.

    Raises:
        ValueError: an unknown architecture, OpenAI's weights without QuickGELU, or a text tower from the hub.
    """
    if config is None:
        raise ValueError(f"architecture = {settings.architecture!r}: open_clip has no such architecture")
    # OpenAI trained with QuickGELU; with the plain one the same weights load and give other embeddings.
    of_openai = any(part.endswith(".openai") for part in settings.model.split("/"))
    if of_openai and not config.get("quick_gelu"):
        raise ValueError(
            f"{settings.model}: OpenAI's weights need QuickGELU; use an architecture such as ViT-B-32-quickgelu"
        )
    if text_tower := config["text_cfg"].get("hf_model_name"):
        raise ValueError(f"{settings.model}: its text tower {text_tower} would be fetched from the hub; not supported")
