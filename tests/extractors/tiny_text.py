"""Small stand-ins in the files of the published models: XLM-R's language classifier, NLLB, PaddleOCR's recognisers."""

import json
import math
import string

import torch
import yaml

from vemoclap_batch.extractors.paddle_models import bundled_recogniser
from vemoclap_batch.extractors.translated_ocr import NLLB_CODES
from vemoclap_batch.networks.script import LETTERS as SCRIPT_LETTERS

LETTERS = ["▁", *string.ascii_lowercase, *string.digits, ".", "!"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def language_folder(folder, seed=0, sharpness=1.0, likely=None):
    """A classifier of the published twenty languages; the larger the sharpness, the surer of itself.

    With ``likely`` it takes every text for that language.
    """
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification, XLMRobertaTokenizer

    pieces = [*((token, 0.0) for token in SPECIAL), *((letter, -2.0) for letter in LETTERS)]
    XLMRobertaTokenizer(vocab=[*pieces, ("<mask>", 0.0)]).save_pretrained(folder)
    labels = dict(enumerate(NLLB_CODES))
    torch.manual_seed(seed)
    network = XLMRobertaForSequenceClassification(
        XLMRobertaConfig(
            vocab_size=len(pieces) + 1, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=514, pad_token_id=1, id2label=labels,
            label2id={name: at for at, name in labels.items()}, initializer_range=0.5,
        )
    )  # fmt: skip
    with torch.no_grad():
        network.classifier.out_proj.weight.mul_(sharpness)
        if likely:
            network.classifier.out_proj.bias[list(NLLB_CODES).index(likely)] += 100
    network.save_pretrained(folder)
    return folder


def nllb_folder(folder, seed=0):
    """A translator that writes letters for a while, others for other texts and languages."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    count = _nllb_tokenizer(folder)
    torch.manual_seed(seed)
    config = M2M100Config(
        vocab_size=count, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=1024, init_std=0.5,
        decoder_start_token_id=2, pad_token_id=1, eos_token_id=2, bos_token_id=0, scale_embedding=True,
    )  # fmt: skip
    network = M2M100ForConditionalGeneration(config)
    with torch.no_grad():
        _prefer_letters(network.model)
    config.architectures = [type(network).__name__]
    config.save_pretrained(folder)
    network.generation_config.save_pretrained(folder)
    # As published: one pickle of tensors, shared ones under each of their names.
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    return folder


def _prefer_letters(model):
    """There is no bias for words: one coordinate, which the last norm sets to a constant, takes its place."""
    words = model.shared.weight
    words.normal_(0, 1 / math.sqrt(words.shape[1]))
    words[:, -1] = -4
    words[len(SPECIAL) : len(SPECIAL) + len(LETTERS), -1] = 0
    words[2, -1] = 0.1
    model.decoder.layer_norm.weight.fill_(4.0)
    model.decoder.layer_norm.weight[-1] = 0
    model.decoder.layer_norm.bias[-1] = 10


def _nllb_tokenizer(folder):
    """The two files as the published model has them, in the order of its tokens; returns how many tokens there are."""
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    codes = sorted(FAIRSEQ_LANGUAGE_CODES)
    tokens = [*SPECIAL, *LETTERS]
    added = [*enumerate(SPECIAL), *enumerate([*codes, "<mask>"], len(tokens))]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    (folder / "tokenizer.json").write_text(
        json.dumps(
            {
                "version": "1.0",
                "truncation": None,
                "padding": None,
                "added_tokens": [{"id": number, "content": token, **flags} for number, token in added],
                "normalizer": None,
                "pre_tokenizer": space,
                "post_processor": None,
                "decoder": space,
                "model": {
                    "type": "BPE",
                    "unk_token": "<unk>",
                    "fuse_unk": True,
                    "vocab": {token: number for number, token in enumerate(tokens)},
                    "merges": [],
                },
            }
        )
    )
    roles = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL, strict=True))
    roles |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>", "tokenizer_class": "NllbTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**roles, "additional_special_tokens": codes}))
    return len(tokens) + len(codes) + 1


#: Latin letters and Cyrillic ones that look the same: where the bundled model writes those, a stand-in writes these.
LOOK_ALIKES = dict(zip("ABCEHKMOPTXYaceopxy", "АВСЕНКМОРТХУасеорху", strict=True))


def recogniser_folder(folder, script):
    """The bundled recogniser under the name of a script's own: it writes that script's letters in place of rare ones.

    Of Cyrillic it writes those that look like Latin ones in their place.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    bundled_recogniser(folder.parent).rename(folder)
    description = yaml.load((folder / "inference.yml").read_text(), yaml.CSafeLoader)
    characters = list(description["PostProcess"]["character_dict"])
    if script == "cyrillic":
        characters = [LOOK_ALIKES.get(character, character) for character in characters]
    rare = len(characters) - 2_000
    characters[rare : rare + len(SCRIPT_LETTERS[script])] = SCRIPT_LETTERS[script]
    # PaddleX knows no other names.
    name = {"greek": "el", "hangul": "korean", "tamil": "ta", "telugu": "te", "thai": "th"}.get(script, script)
    description["Global"]["model_name"] = f"{name}_PP-OCRv5_mobile_rec"
    description["PostProcess"]["character_dict"] = characters
    (folder / "inference.yml").write_text(yaml.safe_dump(description, allow_unicode=True))
    return folder
