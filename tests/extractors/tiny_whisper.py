"""A tiny Whisper in the files of large-v3 that is sure of itself, so that a greedy search finds the likeliest words."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.extractors.tiny_speech import REST, whisper_folders


def sure_whisper(parent: Path, seed: int = 10) -> tuple[Path, Path]:
    """As :func:`whisper_folders`, but with no time stamp after the first one, which is 0."""
    from ctranslate2.converters import TransformersConverter
    from transformers import WhisperForConditionalGeneration

    source, converted = whisper_folders(parent, mels=128, seed=seed)
    network = WhisperForConditionalGeneration.from_pretrained(source)
    decoder, first = network.model.decoder, network.generation_config.no_timestamps_token_id + 1
    with torch.no_grad():
        # The last coordinate is what the network has in place of a bias.
        decoder.embed_tokens.weight[first:, -1] = REST / 10
        decoder.embed_tokens.weight[first, -1] = 0
        decoder.layer_norm.weight.mul_(4)
        decoder.layer_norm.bias.mul_(4)
        # Less after the letter before, which would go on for ever, and more after the place.
        decoder.embed_positions.weight.mul_(3)
    network.generation_config._from_model_config = False
    network.save_pretrained(source)
    copied = ["tokenizer.json", "preprocessor_config.json"]
    TransformersConverter(str(source), copy_files=copied).convert(str(converted), force=True)
    return source, converted
