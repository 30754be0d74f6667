"""Image embedding of every frame: OpenAI's CLIP ViT-B/32, or any other model of open_clip."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import FRAMES, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches, autocast
from vemoclap_batch.media.clip import Clip
from vemoclap_batch.models.references import space_of

if TYPE_CHECKING:
    import torch

#: What open_clip fetches for ViT-B-32 with the tag ``openai``.
PUBLISHED = "hf:timm/vit_base_patch32_clip_224.openai"
SPACES = {
    PUBLISHED: "vemoclap/clip-vit-b32-openai",
    f"{PUBLISHED}/open_clip_model.safetensors": "vemoclap/clip-vit-b32-openai",
}
CONFIG = "open_clip_config.json"
#: Frames in one pass: a CPU gains nothing from more than one clip's worth, a GPU does.
CPU_BATCH, GPU_BATCH = 16, 256


class OpenClipSettings(ExtractorSettings):
    """Settings of :class:`OpenClip`.

    Any image model of open_clip can be had: a folder or hub repository that has an ``open_clip_config.json`` says
    itself how it is built and fed; for a weights file, ``architecture`` does. ``width`` has to fit either.
    """

    model: str = Field(PUBLISHED, description=f"a folder with {CONFIG}, or a weights file")
    architecture: str = Field(
        "ViT-B-32-quickgelu", description="open_clip's name of what a weights file holds; a folder's own goes first"
    )
    width: int = Field(512, ge=1, description="of the embedding; checked when the model is loaded")
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="float16 on a GPU, else float32"
    )
    space: str | None = Field(None, description="feature space; without it, named after the model")


@dataclass(frozen=True)
class Preparation:
    """How a model wants its pictures.

    Attributes:
        size: height and width in pixels.
        squash: scale both sides to ``size``, rather than the short side and then cut out the centre.
        interpolation: ``bicubic`` or ``bilinear``, antialiased.
        mean, std: per channel, of pixels in [0, 1].
    """

    size: tuple[int, int]
    squash: bool
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, config: dict[str, Any]) -> Preparation:
        """What open_clip's preprocessing configuration means.

        Raises:
            ValueError: it asks for what this class cannot do.
        """
        size = config["size"]
        height, width = (size, size) if isinstance(size, int) else size
        squash = config["resize_mode"] == "squash"
        if not squash and (config["resize_mode"] != "shortest" or height != width):
            raise ValueError(f"pictures of {height}x{width}, resize_mode {config['resize_mode']!r}: not supported")
        if config["interpolation"] not in {"bicubic", "bilinear"}:
            raise ValueError(f"interpolation {config['interpolation']!r}: expected bicubic or bilinear")
        return cls((height, width), squash, config["interpolation"], tuple(config["mean"]), tuple(config["std"]))

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames uint8 [n, h, w, 3] as the network's input float32 [n, 3, height, width].

        They are scaled as unrounded tensors, so bicubic overshoots stay, as in the published program.
        """
        import torch
        from torch.nn import functional

        height, width = frames.shape[1:3]
        size = self.size if self.squash else _scaled(height, width, self.size[0])
        pictures = frames.permute(0, 3, 1, 2).float() / 255
        pictures = functional.interpolate(pictures, size=size, mode=self.interpolation, antialias=True)
        top, left = (round((have - want) / 2) for have, want in zip(size, self.size, strict=True))
        pictures = pictures[:, :, top : top + self.size[0], left : left + self.size[1]]
        mean, std = (
            torch.tensor(values, device=frames.device)[:, None, None]  # [3, 1, 1]
            for values in (self.mean, self.std)
        )
        return (pictures - mean) / std


class OpenClip(Extractor):
    """The projected image embedding of each frame, not normalised to length 1."""

    name = "open-clip"
    Settings = OpenClipSettings
    inputs = (FRAMES,)
    sequence = True
    settings: OpenClipSettings

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Load the model.

        Raises:
            FileNotFoundError: a folder without open_clip's configuration.
            ValueError: weights that are not those of the architecture, or another width than the settings say.
        """
        super().__init__(settings, resources)
        import torch

        torch.set_num_threads(resources.threads)
        self._precision = "float32" if self.settings.precision == "auto" else self.settings.precision
        # What was only for texts is let go of.
        visual = load_open_clip(resources.models["model"], self.settings).visual
        self._network = visual.to(resources.device)
        self._prepare = Preparation.of(visual.preprocess_cfg)
        self._batches = Batches(CPU_BATCH if resources.device == "cpu" else GPU_BATCH)
        width = self._embed([np.zeros((*self._prepare.size, 3), np.uint8)])[0].size
        if width != self.settings.width:
            raise ValueError(
                f"width = {self.settings.width}: {self.settings.model} makes embeddings of {width}; set width={width}"
            )

    @classmethod
    def space(cls, settings: ExtractorSettings) -> str:
        """Named after the model, unless the settings name it."""
        assert isinstance(settings, OpenClipSettings)
        return settings.space or space_of(settings.model, SPACES)

    @classmethod
    def width(cls, settings: ExtractorSettings) -> int:
        """As the settings say."""
        assert isinstance(settings, OpenClipSettings)
        return settings.width

    @classmethod
    def references(cls, settings: ExtractorSettings) -> dict[str, str]:
        """The model."""
        assert isinstance(settings, OpenClipSettings)
        return {"model": settings.model}

    def _extract(self, clips: Sequence[Clip]) -> list[Result | Failure]:
        """Embed the frames of all clips, in full batches across clips."""
        embeddings = self._batches.run(self._embed, [frame for clip in clips for frame in clip.frames])
        rows = iter(embeddings)
        results: list[Result | Failure] = []
        for clip in clips:
            times = np.asarray(clip.frame_times, np.float64)
            feature = np.array(list(itertools.islice(rows, len(clip.frames))), np.float32)
            results.append(Result(feature.reshape(len(clip.frames), self.settings.width), times, times))
        return results

    def _embed(self, frames: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The embedding float32 [width] of each of some frames uint8 [h, w, 3], whose sizes may differ."""
        import torch

        with torch.inference_mode():
            pictures = torch.cat(
                [
                    self._prepare(torch.from_numpy(np.stack(list(alike))).to(self.resources.device))
                    for _, alike in itertools.groupby(frames, key=np.shape)
                ]
            )
            with autocast(self.resources.device, self._precision):
                output = self._network(pictures)
            # CoCa gives the embedding and its tokens.
            embedding = output[0] if isinstance(output, tuple) else output
            return list(embedding.float().cpu().numpy())


def load_open_clip(path: Path, settings: OpenClipSettings) -> Any:
    """The open_clip model whose folder or weights file is ``path``, in evaluation mode, every weight from the file.

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


def _scaled(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Size of a picture whose short side is scaled; the long one is rounded down, as torchvision does."""
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side
