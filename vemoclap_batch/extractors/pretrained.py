"""What extractors share whose models come from the hub or a local folder, most of them transformers'."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from vemoclap_batch.extractors.base import Extractor, ExtractorSettings, Resources
from vemoclap_batch.extractors.batching import Batches
from vemoclap_batch.models.references import space_of

if TYPE_CHECKING:
    import torch

#: How transformers loads from a folder: with no network, and without code from the folder.
_LOCAL = {"local_files_only": True, "trust_remote_code": False}
#: Tokens of a text that a classifier reads, its two enclosing ones included; RoBERTa has no more positions.
LONGEST = 512
#: Files that make a tokenizer of transformers; any one group of them will do.
_TOKENIZERS: tuple[tuple[str, ...], ...] = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("sentencepiece.bpe.model",),
    ("spiece.model",),
    ("tokenizer.model",),
)
#: The file that describes an image processor, the key of its kind in it, and how that ended before transformers 4.26.
PREPROCESSOR, _KIND, _OLD = "preprocessor_config.json", "image_processor_type", "FeatureExtractor"
#: Texts in one pass of a classifier.
CPU_TEXTS, GPU_TEXTS = 8, 32


class PrecisionSettings(ExtractorSettings):
    """Settings of an extractor that may compute in less than float32."""

    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="float16 on a GPU, else float32"
    )


class FeatureSettings(PrecisionSettings):
    """Settings of an extractor whose feature depends on the model that is chosen."""

    width: int = Field(768, ge=1, description="of the feature; checked when the model is loaded")
    space: str | None = Field(None, description="feature space; without it, named after the model")


class Pretrained(Extractor):
    """An extractor whose models are named by settings, as hub references or local paths.

    With :class:`FeatureSettings` it has a feature, otherwise columns alone.
    """

    #: The settings that name models; the last one makes the feature.
    model_settings: ClassVar[tuple[str, ...]] = ("model",)
    #: Feature spaces of known models, by reference; that of another model is named after it.
    spaces: ClassVar[Mapping[str, str]] = {}

    def __init__(self, settings: ExtractorSettings, resources: Resources) -> None:
        """Load the models.

        Raises:
            OSError: a file or folder is missing.
            ValueError: weights are missing, are of another architecture or width, or are no plain weights.
        """
        super().__init__(settings, resources)
        prepare_torch(resources.threads)
        self._precision = computed_precision(settings)

    @classmethod
    def space(cls, settings: Any) -> str | None:
        """The space that the settings name, or that of the model."""
        if not isinstance(settings, FeatureSettings):
            return None
        return settings.space or space_of(getattr(settings, cls.model_settings[-1]), cls.spaces)

    @classmethod
    def width(cls, settings: Any) -> int:
        """As the settings say."""
        return settings.width if isinstance(settings, FeatureSettings) else 0

    @classmethod
    def references(cls, settings: Any) -> dict[str, str]:
        """The models that the settings name."""
        return {name: getattr(settings, name) for name in cls.model_settings}

    def _check_width(self, width: int) -> None:
        """See that the model makes features of the width that the settings say.

        Raises:
            ValueError: it does not.
        """
        expected = self.width(self.settings)
        if width != expected:
            model = getattr(self.settings, self.model_settings[-1])
            raise ValueError(f"width = {expected}: {model} makes embeddings of {width}; set width={width}")


class Classifier:
    """A classifier of transformers (RoBERTa, XLM-R, ViT) from a local folder.

    Attributes:
        labels: its classes, in lower case.
        width: of its hidden states.
    """

    def __init__(self, kind: Any, folder: Path, device: str, precision: str) -> None:
        """Load it; see :func:`load_strictly`."""
        self._device, self._precision = device, precision
        self.network = load_strictly(kind, folder).to(device)
        config = self.network.config
        self.labels = [config.id2label[index].lower() for index in range(config.num_labels)]
        self.width = int(config.hidden_size)

    def classify(self, **inputs: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each item of a batch the first token's vector [width] and the class probabilities, float32.

        The vector is that of the last of the ``hidden_states``: of a ViT, before the final layer norm.
        """
        import torch

        with torch.inference_mode(), autocast(self._device, self._precision):
            # -1 keeps the last hidden state alone: all of them would be most of the memory.
            output = self.network(**inputs, output_hidden_states=-1)
        vectors = output.hidden_states[-1][:, 0].float().cpu().numpy()  # [n, width]
        return list(zip(vectors, output.logits.float().softmax(1).cpu().numpy(), strict=True))


class TextClassifier(Classifier):
    """A classifier of texts, in batches of texts of about the same length."""

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        from transformers import AutoModelForSequenceClassification

        super().__init__(AutoModelForSequenceClassification, folder, device, precision)
        self._tokenizer = load_tokenizer(folder)
        self._batches = Batches.for_device(device, CPU_TEXTS, GPU_TEXTS)

    def __call__(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """The first token's vector [width] and the class probabilities of each text, cut at 512 tokens."""
        if not texts:
            return []
        tokens = self._tokenizer(list(texts), truncation=True, max_length=LONGEST)["input_ids"]
        return self._batches.run_by_length(self._run, tokens)

    def _run(self, texts: Sequence[list[int]]) -> list[tuple[np.ndarray, np.ndarray]]:
        ids, mask = pad(texts, self._tokenizer.pad_token_id, self._device)
        return self.classify(input_ids=ids, attention_mask=mask)


def prepare_torch(threads: int) -> None:
    """Bound torch's threads in this process, and keep transformers from asking the hub."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(threads)


def computed_precision(settings: Any) -> str:
    """The precision to compute in; ``auto``, which a profile resolves by its device, is float32 by itself."""
    return "float32" if settings.precision == "auto" else settings.precision


def autocast(device: str, precision: str) -> Any:
    """The torch context that computes in ``precision`` (float32, float16 or bfloat16) on a device."""
    import torch

    return torch.autocast(device.partition(":")[0], getattr(torch, precision), enabled=precision != "float32")


def pad(texts: Sequence[list[int]], padding: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids of texts, padded to the longest, and their attention mask: int64 [n, tokens] each."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    ids = [torch.tensor(tokens) for tokens in texts]
    mask = pad_sequence([torch.ones_like(tokens) for tokens in ids], batch_first=True)
    return pad_sequence(ids, batch_first=True, padding_value=padding).to(device), mask.to(device)


def load_strictly(kind: Any, folder: Path) -> Any:
    """A transformers network from a local folder, float32 and in evaluation mode, with every weight from the file.

    By default, transformers fills in random numbers for missing weights. ``kind`` is one of its ``Auto…`` classes.
    A ``pytorch_model.bin`` is read as weights only, which refuses every other pickled object.

    Raises:
        NotADirectoryError: not a folder.
        ValueError: weights are missing, of another shape, or no plain weights.
    """
    import torch
    from transformers.utils import logging

    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: expected the folder of a transformers model")
    logging.disable_progress_bar()
    # Missing weights are raised below.
    logging.set_verbosity_error()
    try:
        network, report = kind.from_pretrained(
            folder, weights_only=True, output_loading_info=True, dtype=torch.float32, **_LOCAL
        )
    except pickle.UnpicklingError as error:
        raise ValueError(f"{folder}: the weights file holds more than weights; it was not loaded") from error
    except RuntimeError as error:
        raise ValueError(f"{folder}: {error}") from error
    if missing := sorted(report["missing_keys"]):
        named = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise ValueError(f"{folder} lacks weights of {type(network).__name__}: {named}")
    return network.eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a local folder.

    Raises:
        FileNotFoundError: there is none; transformers would ask for an unrelated package.
    """
    if not any(all((folder / name).is_file() for name in names) for names in _TOKENIZERS):
        wanted = " or ".join(" with ".join(names) for names in _TOKENIZERS)
        raise FileNotFoundError(f"{folder} has no tokenizer: expected {wanted} beside the weights")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, **_LOCAL)


def load_image_processor(folder: Path, backend: str) -> Any:
    """The image preprocessing in a local folder; ``pil`` and ``torchvision`` give slightly different pixels.

    Checkpoints of transformers before 4.26 name it ``…FeatureExtractor``. This transformers knows that name under the
    old key ``feature_extractor_type`` only; under the key of today it is taken for the same ``…ImageProcessor``.

    Raises:
        OSError: the folder has no preprocessor_config.json.
        ValueError: it names no image processor that transformers knows.
    """
    from transformers import AutoImageProcessor

    path = folder / PREPROCESSOR
    described = json.loads(path.read_text()) if path.is_file() else {}
    named = described.get(_KIND) or ""
    if not named.endswith(_OLD):
        return AutoImageProcessor.from_pretrained(folder, backend=backend, **_LOCAL)
    with tempfile.TemporaryDirectory(prefix="vemoclap-processor-") as renamed:
        described[_KIND] = named.removesuffix(_OLD) + "ImageProcessor"
        (Path(renamed) / PREPROCESSOR).write_text(json.dumps(described))
        return AutoImageProcessor.from_pretrained(renamed, backend=backend, **_LOCAL)


def own_weights_hash(path: Path) -> str:
    """Short hash of a weights file that this package carries."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def own_weights_width(path: Path, tensor: str) -> int:
    """Columns of a matrix in a safetensors file; reads no more than its header, and imports no torch."""
    from safetensors import safe_open

    with safe_open(str(path), "np") as file:
        return int(file.get_slice(tensor).get_shape()[1])
