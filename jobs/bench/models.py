"""Random weights in the files of the published models, full-size or small: what they compute costs what theirs does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.whisper_model import write_whisper

SEED = 0
#: The sizes of a transformer that a benchmark of seconds can afford, in transformers' words.
_SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
#: Width of an embedding of the small models; the full-size ones have the published widths.
SMALL_WIDTH = 32
_ROBERTA_TOKENS = 50_265
_FACES = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")


def write_clip(folder: Path, small: bool = False) -> Path:
    """CLIP ViT-B/32 as open_clip's folder: configuration and safetensors."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = open_clip.get_model_config("ViT-B-32-quickgelu")
    if small:
        config["embed_dim"] = SMALL_WIDTH
        config["vision_cfg"] |= {"layers": 2, "width": 64}
        config["text_cfg"] |= {"layers": 1, "width": 64, "heads": 1, "vocab_size": 64}
    torch.manual_seed(SEED)
    model = open_clip.CLIP(**config)
    prepare = {
        "mean": list(open_clip.OPENAI_DATASET_MEAN),
        "std": list(open_clip.OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": prepare}))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def write_beats(path: Path, small: bool = False) -> Path:
    """BEATs iter3+ AS2M, fine-tuned, as its authors' file."""
    import torch

    from vemoclap_batch.networks.beats import Beats
    from vemoclap_batch.networks.beats_config import BeatsConfig

    cfg: dict[str, Any] = {
        "encoder_layers": 12, "embed_dim": 512, "encoder_embed_dim": 768, "encoder_ffn_embed_dim": 3072,
        "encoder_attention_heads": 12, "activation_fn": "gelu", "layer_norm_first": False, "deep_norm": True,
        "conv_bias": False, "conv_pos": 128, "conv_pos_groups": 16, "relative_position_embedding": True,
        "num_buckets": 320, "max_distance": 800, "gru_rel_pos": True, "input_patch_size": 16, "finetuned_model": True,
        "predictor_class": 527,
    }  # fmt: skip
    if small:
        cfg |= {
            "encoder_layers": 2, "embed_dim": 16, "encoder_embed_dim": SMALL_WIDTH, "encoder_ffn_embed_dim": 64,
            "encoder_attention_heads": 2, "conv_pos": 8, "conv_pos_groups": 4,
        }  # fmt: skip
    torch.manual_seed(SEED)
    weights = Beats(BeatsConfig.of(cfg)).state_dict()
    labels = {index: f"/m/{index:04d}" for index in range(cfg["predictor_class"])}
    torch.save({"cfg": cfg, "model": weights, "label_dict": labels}, path)
    return path


def write_yolo(path: Path) -> Path:
    """A YOLO11n of one class as ultralytics' .pt file, accepted in a manifest beside it; it finds nothing."""
    from vemoclap_batch.extractors.yolo_face import quieten_ultralytics
    from vemoclap_batch.models.hashes import Manifest, write_manifest
    from vemoclap_batch.models.verify import accept

    quieten_ultralytics()
    import torch
    import ultralytics
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils import ROOT, YAML

    shape = YAML.load(ROOT / "cfg" / "models" / "11" / "yolo11.yaml")
    shape |= {"nc": 1, "scale": "n", "yaml_file": "yolo11n-face.yaml"}
    torch.manual_seed(SEED)
    network = DetectionModel(shape, verbose=False)
    network.names = {0: "face"}
    arguments = {"imgsz": 640, "task": "detect"}
    torch.save({"model": network, "ema": None, "train_args": arguments, "version": ultralytics.__version__}, path)
    # Without a manifest of its own, that of the user's models folder would speak for it.
    write_manifest(path.parent, Manifest())
    accept(path.parent, [str(path)])
    return path


def write_vit(folder: Path, small: bool = False) -> Path:
    """ViT-B/16 over the seven expressions, in the layout of trpakov/vit-face-expression."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    labels: dict[str, Any] = {
        "id2label": dict(enumerate(_FACES)),
        "label2id": {name: at for at, name in enumerate(_FACES)},
    }
    torch.manual_seed(SEED)
    ViTForImageClassification(ViTConfig(**labels, **(_SMALL if small else {}))).save_pretrained(folder)
    prepare = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 224, "width": 224},
        "resample": 2,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(prepare))
    return folder


def write_roberta(folder: Path, small: bool = False) -> Path:
    """RoBERTa base over the three sentiments; without merges, its tokenizer makes a token of each byte."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import RobertaConfig, RobertaForSequenceClassification

    labels = ("negative", "neutral", "positive")
    config = RobertaConfig(
        vocab_size=_ROBERTA_TOKENS, max_position_embeddings=514, type_vocab_size=1, id2label=dict(enumerate(labels)),
        label2id={label: at for at, label in enumerate(labels)}, **(_SMALL if small else {}),
    )  # fmt: skip
    torch.manual_seed(SEED)
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet())]
    tokens += [f"unused{number}" for number in range(_ROBERTA_TOKENS - len(tokens) - 1)]
    vocabulary = {token: number for number, token in enumerate([*tokens, "<mask>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    return folder


def paper_entries(
    folder: Path, small: bool = False, tokens: int = 64, large_whisper: bool = False
) -> dict[str, dict[str, Any]]:
    """Make the weights of the paper profile's large models; returns what its entries have to say to use them.

    The captioner, the language classifier and the translator are left out; what reads texts is the same as in lite.

    Args:
        folder: where they go.
        small: make toys of the same formats.
        tokens: which a random Whisper says of every window.
        large_whisper: of the size of large-v3, which the profile has, and not of small, which a CPU can afford.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    width = {"width": SMALL_WIDTH} if small else {}
    faces = folder / "faces"
    faces.mkdir()
    return {
        "clip": {"model": str(write_clip(folder / "clip", small)), **width},
        "face_emotion": {
            "detector": str(write_yolo(faces / "model.pt")),
            "expressions": str(write_vit(folder / "vit", small)),
            **width,
        },
        "beats": {"model": str(write_beats(folder / "beats.pt", small)), **width},
        # Noise is no speech: the filter would leave nothing to recognise. A CPU has no float16.
        "asr": {
            "model": str(write_whisper(folder / "whisper", small, tokens, large_whisper)),
            "compute_type": "int8",
            "beam_size": 1,
            "vad_filter": False,
        },
        "asr_sentiment": {"model": str(write_roberta(folder / "roberta", small)), **width},
    }
