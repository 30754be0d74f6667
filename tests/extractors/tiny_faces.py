"""Small checkpoints in the true formats, with random weights: a YOLO that finds "faces" and a ViT that reads them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from vemoclap_batch.extractors.yolo_face import YoloFaceSettings, quieten_ultralytics
from vemoclap_batch.media.clip import Clip

CLASSES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
#: Width and image size of the tiny ViT.
WIDTH, SIDE = 24, 32


def tiny_yolo(
    path: Path, likes: np.ndarray, reach: tuple[int, int, int] = (3, 3, 2), task: str = "detect", landmarks: int = 17
) -> Path:
    """Write a one-class YOLOv8 of 0.15 M random weights whose head is set so that it sees faces in a kind of image.

    Args:
        path: of the .pt file.
        likes: uint8 [h, w, 3], RGB; in images like this it finds faces, in plain grey ones it finds none.
        reach: how far its boxes of 8, 16 and 32 pixels' stride extend from their middle, in strides; 0 makes them flat.
        task: ``detect``, or ``pose`` for one with landmarks.
        landmarks: of each face of a pose model; five are those of a face.
    """
    quieten_ultralytics()
    import ultralytics
    from ultralytics.nn.tasks import DetectionModel, PoseModel
    from ultralytics.utils import ROOT, YAML

    shape = YAML.load(ROOT / "cfg" / "models" / "v8" / f"yolov8{'-pose' if task == 'pose' else ''}.yaml")
    shape |= {"nc": 1, "scales": {"t": [0.33, 0.0625, 64]}, "scale": "t", "yaml_file": "yolov8t-face.yaml"}
    if task == "pose":
        shape["kpt_shape"] = [landmarks, 3]
    torch.manual_seed(3)
    network = {"detect": DetectionModel, "pose": PoseModel}[task](shape, verbose=False)
    network.names = {0: "face"}
    _set_head(network.eval(), likes, reach)
    arguments = {"imgsz": 640, "task": task}
    torch.save({"model": network, "ema": None, "train_args": arguments, "version": ultralytics.__version__}, path)
    return path


def _set_head(network: torch.nn.Module, likes: np.ndarray, reach: tuple[int, int, int]) -> None:
    """Tell what an image shows from plain grey by the difference of their features, and spread the boxes."""
    head = network.model[-1]
    features: dict[torch.nn.Module, list[torch.Tensor]] = {}
    for last in [branch[-1] for branch in (*head.cv2, *head.cv3)]:
        features[last] = []
        last.register_forward_pre_hook(lambda layer, inputs: features[layer].append(inputs[0][0].flatten(1)))
    with torch.no_grad():
        for image in (likes, np.full_like(likes, 114)):
            network(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255)
    bins = torch.arange(head.reg_max)
    for (layer, (shown, plain)), level in zip(features.items(), (0, 1, 2, 0, 1, 2), strict=True):
        layer._forward_pre_hooks.clear()  # shown and plain: [channels, places]
        if layer.out_channels == 1:
            weight = shown.mean(1) - plain.mean(1)
            most, usual = (weight @ shown).quantile(0.995), (weight @ plain).max()
            # The best of the image scores above 0.73, plain grey below 0.12.
            layer.weight.data = (3 / (most - usual) * weight)[None, :, None, None]
            layer.bias.data[:] = -2 - 3 / (most - usual) * usual
        else:
            spread = (layer.weight[:, :, 0, 0] @ shown).std(1).mean()
            layer.weight.data *= (2 if reach[level] else 0) / spread
            layer.bias.data = -2.0 * (bins - reach[level]).abs().repeat(4) * (1 if reach[level] else 20)


def tiny_onnx(pt: Path, path: Path, side: int | None = None) -> Path:
    """Export a YOLO .pt file that :func:`tiny_yolo` wrote, for any size of image or a fixed one and single frames."""
    from torch.onnx._internal.torchscript_exporter import onnx_proto_utils
    from ultralytics import YOLO

    network = YOLO(pt).model.eval()
    head = network.model[-1]
    head.export, head.format, head.dynamic = True, "onnx", side is None
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch", 2: "boxes"}}
    # That last step only serves custom operators, and needs a package that nothing else does.
    with mock.patch.object(onnx_proto_utils, "_add_onnxscript_fn", lambda model, _: model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no package is the older one
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, side or 64, side or 64),),
            str(path),
            dynamo=False,
            input_names=["images"],
            output_names=["output0"],
            dynamic_axes=axes if side is None else None,
        )
    return path


def tiny_vit(folder: Path, width: int = WIDTH) -> Path:
    """Write a random ViT classifier in the layout of trpakov/vit-face-expression."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(5)
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIDE,
        patch_size=8,
        id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
        initializer_range=0.3,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    preprocessor = {
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "ViTFeatureExtractor",
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "size": SIDE,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def alone(
    models: Path, clip: Clip, settings: YoloFaceSettings, detector: str = "model.pt"
) -> tuple[np.ndarray, list[float], list[tuple]]:
    """The published semantics, plainly: one frame at a time, one face at a time.

    Returns:
        The feature, the times of its rows, and of every face: frame, area, left, top, score, vector, name, probability.
    """
    from transformers import ViTForImageClassification, ViTImageProcessorPil
    from ultralytics import YOLO

    yolo = YOLO(models / "tiny" / "faces" / detector)
    processor = ViTImageProcessorPil.from_pretrained(models / "tiny" / "expressions")
    vit = ViTForImageClassification.from_pretrained(models / "tiny" / "expressions").eval()
    feature, seen, rows = [], [], []
    for number, frame in enumerate(clip.frames):
        (found,) = yolo.predict(
            np.ascontiguousarray(frame[:, :, ::-1]),
            conf=settings.confidence,
            iou=settings.iou,
            imgsz=settings.image_size,
            device="cpu",
            verbose=False,
        )
        ranked = []
        for (left, top, right, bottom), score in zip(found.boxes.xyxy.tolist(), found.boxes.conf.tolist(), strict=True):
            crop = Image.fromarray(frame).crop((int(left), int(top), int(right), int(bottom)))
            if not (crop.width and crop.height):
                continue
            with torch.no_grad():
                output = vit(**processor(crop, return_tensors="pt"), output_hidden_states=True)
            vector = output.hidden_states[-1][0, 0].numpy()
            probability, best = output.logits.softmax(1)[0].max(0)
            name = {"angry": "anger", "happy": "joy", "sad": "sadness"}.get(
                name := vit.config.id2label[int(best)], name
            )
            ranked.append(((right - left) * (bottom - top), left, top, score, vector, name, float(probability)))
        ranked.sort(key=lambda face: -face[0])
        rows += [(number, *face) for face in ranked]
        if ranked:
            seen.append(clip.frame_times[number])
            feature.append(np.mean([face[4] for face in ranked[:2]], axis=0))
    return np.array(feature).reshape(-1, WIDTH), seen, rows
