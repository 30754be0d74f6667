"""Tiny random checkpoints in the files and names of the published ones, for the loading code that really runs."""

from __future__ import annotations

import json
import pickle
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file

from vemoclap_batch.extractors.base import Resources

CLIP_WIDTH, ROBERTA_WIDTH = 16, 32
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def build(cls, folder, **settings):
    """An extractor whose setting ``model`` lies in ``folder``."""
    checked = cls.Settings(model=str(folder), **settings)
    return cls(checked, Resources(models={"model": Path(folder)}))


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (Path(self.marker),))


def hostile_weights(path, marker, weights):
    """Weights as torch saves them, with an object that touches ``marker`` when it is unpickled."""
    torch.save({**weights, "extra": Hostile(marker)}, path)
    # The trap works: an ordinary load springs it.
    torch.load(path, weights_only=False)
    assert marker.exists()
    marker.unlink()


def hostile_pickle(path, marker):
    """No weights at all, a plain pickle that touches ``marker``."""
    path.write_bytes(pickle.dumps(Hostile(marker), protocol=2))


@contextmanager
def little_memory(module, most):
    """A network that runs out of memory for more than ``most`` items; yields the sizes of the batches that it saw."""
    seen = []

    def check(_, args, kwargs):
        size = len(args[0] if args else next(iter(kwargs.values())))
        seen.append(size)
        if size > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    hook = module.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def clip_config(*, quick_gelu=True, image_size=224, width=CLIP_WIDTH):
    """An open_clip architecture of two layers and 49 patches."""
    return {
        "embed_dim": width,
        "quick_gelu": quick_gelu,
        "vision_cfg": {
            "image_size": image_size,
            "layers": 2,
            "width": 32,
            "head_width": 16,
            "patch_size": image_size // 7,
            # In training only, it drops half of the patches.
            "patch_dropout": 0.5,
        },
        "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
    }


def clip_weights(config, seed=0):
    """Random weights of an architecture, large enough that its activation matters."""
    import open_clip

    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    return {
        name: value if value.ndim == 0 else value + 0.3 * torch.randn_like(value)
        for name, value in model.state_dict().items()
    }


def clip_folder(folder, config=None, weights=None, **preprocess):
    """A folder as on the hub: open_clip's configuration, and the weights as safetensors."""
    config = config or clip_config()
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {
        "mean": CLIP_MEAN,
        "std": CLIP_STD,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    } | preprocess
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    save_file(weights or clip_weights(config), folder / "open_clip_model.safetensors")
    return folder


def roberta_folder(folder, *, seed=0, labels=("negative", "neutral", "positive"), safetensors=False):
    """A folder as on the hub: configuration, ``pytorch_model.bin``, vocab.json and merges.txt, no tokenizer.json."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _byte_vocabulary()
    config = RobertaConfig(
        vocab_size=len(vocabulary),
        hidden_size=ROBERTA_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=514,
        type_vocab_size=1,
        initializer_range=0.4,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    torch.manual_seed(seed)
    network = RobertaForSequenceClassification(config)
    config.architectures = [type(network).__name__]
    config.save_pretrained(folder)
    # What the published file has and the class does not use.
    unused = {"roberta.pooler.dense.weight": torch.zeros(2, 2), "roberta.embeddings.position_ids": torch.arange(514)}
    weights = network.state_dict() | unused
    if safetensors:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    else:
        torch.save(weights, folder / "pytorch_model.bin")
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\na n\nĠ t\nĠt h\nĠth e\n", "utf-8")
    return folder


def blip_folder(folder, *, seed=0, end=4.0):
    """A folder as on the hub: configurations, ``pytorch_model.bin`` and vocab.txt; ``end`` is what ends captions."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(97 + number) for number in range(26)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "initializer_range": 0.3,
    }
    # As published, the token that starts a caption lies beyond the vocabulary of the tokenizer.
    text = {
        **sizes,
        "vocab_size": len(vocabulary) + 2,
        "encoder_hidden_size": 32,
        "max_position_embeddings": 64,
        "bos_token_id": len(vocabulary),
        "eos_token_id": 2,
        "pad_token_id": 0,
        "sep_token_id": 3,
    }
    config = BlipConfig(
        text_config=text,
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=16,
        image_text_hidden_size=16,
    )
    torch.manual_seed(seed)
    network = BlipForConditionalGeneration(config)
    # Some captions end before they have to.
    with torch.no_grad():
        network.text_decoder.cls.predictions.decoder.bias[text["sep_token_id"]] += end
    config.architectures = [type(network).__name__]
    config.save_pretrained(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    processor = {
        "do_normalize": True,
        "do_resize": True,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "BlipProcessor",
        "resample": 3,
        "size": {"height": 32, "width": 32},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    tokens = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
    tokenizer = {"do_lower_case": True, "model_max_length": 512, "processor_class": "BlipProcessor"} | {
        f"{kind}_token": token for kind, token in tokens.items()
    }
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "tokenizer_class": "BertTokenizer"}))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return folder


def _byte_vocabulary():
    """RoBERTa's special tokens, the characters that stand for the 256 bytes, and a few merged ones."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    characters = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(rest))]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *characters, "an", "Ġt", "Ġth", "Ġthe", "<mask>"]
    return {token: number for number, token in enumerate(tokens)}
