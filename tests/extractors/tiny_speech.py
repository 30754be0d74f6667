"""Tiny random Whisper models in the two formats they are published in: transformers' and, converted, CTranslate2's."""

from __future__ import annotations

import string
from pathlib import Path

import torch

#: In the order of their tokens; large-v3 has one more, yue.
LANGUAGES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml "
    "cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am "
    "yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su"
).split()
WIDTH = 64
#: How far the last bias lifts a letter, the end and a time stamp over all other tokens. Stamps are 1501, so the
#: likeliest of them needs less than the likeliest letter.
LETTER, END, STAMP, REST = 0.0, 3.0, -20.0, -80.0


def whisper_folders(parent: Path, *, mels: int = 80, seed: int = 0) -> tuple[Path, Path]:
    """A model that writes letters, time stamps and an end: in transformers' format, and converted to CTranslate2's.

    Args:
        parent: of the two folders.
        mels: 80, or 128 as in large-v3, which then has its further language too.
        seed: of the weights.
    """
    from ctranslate2.converters import TransformersConverter
    from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

    languages = LANGUAGES if mels == 80 else [*LANGUAGES, "yue"]
    tokens = _tokenizer(languages)
    source, converted = parent / "transformers", parent / "ctranslate2"
    _network(tokens, languages, mels, seed).save_pretrained(source)
    end = "<|endoftext|>"
    PreTrainedTokenizerFast(tokenizer_object=tokens, unk_token=end, bos_token=end, eos_token=end).save_pretrained(
        source
    )
    WhisperFeatureExtractor(feature_size=mels).save_pretrained(source)
    copied = ["tokenizer.json", "preprocessor_config.json"]
    TransformersConverter(str(source), copy_files=copied).convert(str(converted))
    return source, converted


def _tokenizer(languages):
    """Bytes and fillers, so that the special tokens have Whisper's numbers."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(rest)}
    vocabulary = {letters[byte]: byte for byte in range(256)}
    vocabulary |= {f"<|filler{number}|>": number for number in range(256, 50256)}
    # CTranslate2 takes a model for multilingual only if this token is empty.
    vocabulary[""] = 50256
    found = Tokenizer(BPE(vocabulary, [], fuse_unk=False))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in _special(languages)])
    return found


def _special(languages):
    """Whisper's own tokens, in the order of their numbers from 50257 on."""
    tasks = ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
    stamps = [f"<|{step * 0.02:.2f}|>" for step in range(1501)]
    return ["<|endoftext|>", "<|startoftranscript|>", *(f"<|{name}|>" for name in languages), *tasks, *stamps]


def _network(tokens, languages, mels, seed):
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    number = tokens.token_to_id
    end = number("<|endoftext|>")
    torch.manual_seed(seed)
    network = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=tokens.get_vocab_size(), num_mel_bins=mels, d_model=WIDTH, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=1, decoder_attention_heads=1, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.3,
            bos_token_id=end, eos_token_id=end, pad_token_id=end,
            decoder_start_token_id=number("<|startoftranscript|>"),
        )
    ).eval()  # fmt: skip
    _lift(network, tokens)
    _describe(network.generation_config, tokens, languages)
    return network


def _lift(network, tokens):
    """Let the last layer norm's bias prefer some tokens: their embeddings have a part along it."""
    liking = torch.full((tokens.get_vocab_size(),), REST)
    liking[tokens.token_to_id("<|0.00|>") :] = STAMP
    liking[tokens.token_to_id("<|endoftext|>")] = END
    liking[[tokens.token_to_id(letter) for letter in string.ascii_lowercase]] = LETTER
    decoder = network.model.decoder
    with torch.no_grad():
        # The last coordinate is the bias's own.
        decoder.embed_tokens.weight.normal_(0, 0.3)
        decoder.embed_tokens.weight[:, -1] = liking / 10
        decoder.layer_norm.weight.fill_(5.0)
        decoder.layer_norm.weight[-1] = 0
        decoder.layer_norm.bias[-1] = 10.0


def _describe(config, tokens, languages):
    number = tokens.token_to_id
    config.eos_token_id = config.bos_token_id = config.pad_token_id = number("<|endoftext|>")
    config.decoder_start_token_id = number("<|startoftranscript|>")
    config.lang_to_id = {f"<|{name}|>": number(f"<|{name}|>") for name in languages}
    config.task_to_id = {task: number(f"<|{task}|>") for task in ("transcribe", "translate")}
    config.no_timestamps_token_id = number("<|notimestamps|>")
    config.is_multilingual = True
    config.alignment_heads = [[0, 0]]
    config.max_initial_timestamp_index = 50
    config.begin_suppress_tokens = [32, config.eos_token_id]
    names = ("startoftranscript", "translate", "transcribe", "startoflm", "startofprev", "nospeech")
    config.suppress_tokens = sorted(number(f"<|{name}|>") for name in names)
    # Otherwise transformers writes none of this.
    config._from_model_config = False
