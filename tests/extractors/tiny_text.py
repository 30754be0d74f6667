"""Tiny random language models in the files of the published ones: XLM-R's language classifier and NLLB."""

import string

import torch

from vemoclap_batch.extractors.translation import NLLB_CODES

LETTERS = ["▁", *string.ascii_lowercase, *string.digits, ".", "!"]


def language_folder(folder, seed=0, sharpness=1.0):
    """A classifier of the published twenty languages; the larger the sharpness, the surer of itself."""
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification, XLMRobertaTokenizer

    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((letter, -2.0) for letter in LETTERS)]
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
    network.save_pretrained(folder)
    return folder


def nllb_folder(folder, seed=0):
    """A translator that writes random letters."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    vocabulary = {name: at for at, name in enumerate(["<s>", "<pad>", "</s>", "<unk>", *LETTERS])}
    tokenizer = NllbTokenizer(vocab=vocabulary, merges=[])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    M2M100ForConditionalGeneration(
        M2M100Config(
            vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=600,
            init_std=0.5, decoder_start_token_id=2, pad_token_id=1, eos_token_id=2, bos_token_id=0,
        )
    ).save_pretrained(folder)  # fmt: skip
    return folder
