"""A random Whisper in CTranslate2's files that says as many tokens of every window as it is told to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

#: Tokens that are words, from 0; the empty one, which tells CTranslate2 that the model knows languages, is the last.
_WORDS = 50_257
#: Width, layers and heads.
_TOY, _SMALL, _LARGE = (64, 2, 2), (768, 12, 12), (1280, 32, 20)
#: Bands of a spectrum and languages of version 3, and of those before it.
_VERSION_3, _BEFORE = (128, 100), (80, 99)
#: Start of transcript, language and task, which precede the words.
_PROMPT = 3


def write_whisper(folder: Path, small: bool = False, tokens: int = 64, large: bool = False) -> Path:
    """Whisper small or large-v3, or a toy of it, converted to CTranslate2.

    What it says at each step follows from the step: its position embeddings outweigh everything else, and the one that
    follows the last wanted token is the embedding of the end. So it neither loops nor stops early.

    Args:
        folder: to be made.
        small: a toy of two layers.
        tokens: how many it says of a window, at most 100.
        large: large-v3, in float16.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from ctranslate2.converters import TransformersConverter
    from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor, WhisperForConditionalGeneration

    if not 1 <= tokens <= 100:
        raise ValueError(f"tokens = {tokens}: expected 1 to 100")
    bands, count = _VERSION_3 if large else _BEFORE
    languages = _languages(count)
    tokenizer = _tokenizer(languages)
    number = tokenizer.token_to_id
    torch.manual_seed(0)
    size = _TOY if small else _LARGE if large else _SMALL
    model = WhisperForConditionalGeneration(_config(size, bands, tokenizer.get_vocab_size()))
    decoder: Any = model.model.decoder
    with torch.no_grad():
        decoder.embed_tokens.weight.normal_(std=8 / model.config.d_model**0.5)
        # Only the first token is a time stamp, where Whisper has to: else a window might be heard in pieces.
        decoder.embed_tokens.weight[number("<|0.00|>") :] *= 0.1
        decoder.embed_positions.weight.normal_(std=5)
        # What follows the start is the language; of any other one the words are written a second time.
        decoder.embed_positions.weight[0] = 100 * decoder.embed_tokens.weight[number("<|en|>")]
        decoder.embed_positions.weight[_PROMPT - 1 + tokens] = (
            100 * decoder.embed_tokens.weight[number("<|endoftext|>")]
        )
    _describe(model.generation_config, number, languages)
    original = folder / "original"
    model.save_pretrained(original)
    tokenizer.save(str(original / "tokenizer.json"))
    end = "<|endoftext|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token=end, bos_token=end, eos_token=end)
    fast.save_pretrained(original)
    WhisperFeatureExtractor(feature_size=bands).save_pretrained(original)
    converter = TransformersConverter(str(original), copy_files=["tokenizer.json", "preprocessor_config.json"])
    converter.convert(str(folder / "converted"), quantization="float16" if large else None)
    return folder / "converted"


def _config(size: tuple[int, int, int], bands: int, vocabulary: int) -> Any:
    """The architecture."""
    from transformers import WhisperConfig

    width, layers, heads = size
    end = _WORDS
    return WhisperConfig(
        vocab_size=vocabulary, num_mel_bins=bands, d_model=width, encoder_layers=layers, decoder_layers=layers,
        encoder_attention_heads=heads, decoder_attention_heads=heads, encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width, bos_token_id=end, eos_token_id=end, pad_token_id=end, decoder_start_token_id=end + 1,
    )  # fmt: skip


def _languages(count: int) -> list[str]:
    """Codes in the order of their tokens."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return list(LANGUAGES)[:count]


def _specials(languages: Sequence[str]) -> list[str]:
    """The tokens after the words, in order."""
    tasks = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    names = ["endoftext", "startoftranscript", *languages, *tasks]
    return [f"<|{name}|>" for name in (*names, *(f"{step * 0.02:.2f}" for step in range(1501)))]


def _tokenizer(languages: Sequence[str]) -> Any:
    """Whisper's vocabulary with bytes for words: its own merges are not here, and cost no time in the model."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Digits that look random: a text that compresses well would be taken for a loop, and heard twice.
    words += [f"{number * 2_654_435_761 % 2**32:08x}" for number in range(_WORDS - len(words) - 1)]
    tokenizer = Tokenizer(BPE({word: number for number, word in enumerate([*words, ""])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in _specials(languages)])
    return tokenizer


def _describe(generation: Any, number: Any, languages: Sequence[str]) -> None:
    """What the converter reads of a model that knows languages."""
    end, start = number("<|endoftext|>"), number("<|startoftranscript|>")
    generation.eos_token_id = generation.bos_token_id = generation.pad_token_id = end
    generation.decoder_start_token_id = start
    generation.lang_to_id = {f"<|{code}|>": number(f"<|{code}|>") for code in languages}
    generation.task_to_id = {task: number(f"<|{task}|>") for task in ("transcribe", "translate")}
    generation.no_timestamps_token_id = number("<|notimestamps|>")
    generation.is_multilingual = True
    generation.alignment_heads = [[0, 0]]
    generation.begin_suppress_tokens = [end]
    others = ("translate", "transcribe", "startoflm", "startofprev", "nospeech")
    generation.suppress_tokens = [start, *(number(f"<|{name}|>") for name in others)]
    # Else it would be made from the model's configuration, which lacks all of this.
    generation._from_model_config = False
