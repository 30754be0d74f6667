"""The expression on a face: an image classifier of transformers (ViT), its class token and its likeliest class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vemoclap_batch.extractors.batching import autocast
from vemoclap_batch.extractors.pretrained import load_strictly

#: Names that checkpoints give the classes → the names of this package (``vemoclap_batch.networks.expression.CLASSES``).
NAMES = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "happy": "joy",
    "happiness": "joy",
    "sad": "sadness",
    "surprised": "surprise",
}


@dataclass(frozen=True)
class Expression:
    """What was seen in one face: its vector, float32 [width], the likeliest expression and how likely that is."""

    vector: np.ndarray
    name: str
    probability: float


class VitExpression:
    """A folder in the layout of ``trpakov/vit-face-expression``, run on crops of faces.

    The vector is the class token's in the last of the ``hidden_states``, before the final layer norm. Crops are
    prepared with Pillow, as when the system was published; torchvision's resizing differs slightly.
    """

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        """Load the model.

        Args:
            folder: with the configuration, the weights and ``preprocessor_config.json``.
            device: of torch.
            precision: float32, float16 or bfloat16.

        Raises:
            NotADirectoryError: not a folder.
            ValueError: weights are missing, or no plain weights.
            OSError: there is no ``preprocessor_config.json``.
        """
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        self._device, self._precision = device, precision
        self.network = load_strictly(AutoModelForImageClassification, folder).to(device)
        self._processor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
        config = self.network.config
        names = [config.id2label[index].lower() for index in range(config.num_labels)]
        self._names = [NAMES.get(name, name) for name in names]
        self.width = int(config.hidden_size)

    def __call__(self, crops: Sequence[np.ndarray]) -> list[Expression]:
        """The expressions of faces, each uint8 [height, width, 3], RGB, with at least one pixel."""
        import torch

        # Said, as transformers would take a crop of 1 or 3 rows for one with the channels first.
        prepared = self._processor(images=list(crops), input_data_format="channels_last", return_tensors="pt")
        pixels = prepared["pixel_values"].to(self._device)  # [n, 3, 224, 224]
        with torch.inference_mode(), autocast(self._device, self._precision):
            # -1 keeps the last hidden state alone: all of them would be most of the memory.
            output = self.network(pixel_values=pixels, output_hidden_states=-1)
        vectors = output.hidden_states[-1][:, 0].float().cpu().numpy()  # [n, width]
        likely = output.logits.float().softmax(1).cpu().numpy()  # [n, classes]
        return [
            Expression(vector, self._names[best], float(row[best]))
            for vector, row, best in zip(vectors, likely, likely.argmax(1), strict=True)
        ]
