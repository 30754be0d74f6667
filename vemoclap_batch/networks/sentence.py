"""Sentence embeddings: the mean over the tokens of a BERT (Devlin et al., 2019), as sentence-transformers has it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

#: Where a layer of torch has what a BERT's file calls otherwise.
_PARTS = {
    "self_attn.out_proj": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "linear1": "intermediate.dense",
    "linear2": "output.dense",
    "norm2": "output.LayerNorm",
}


class SentenceEncoder(nn.Module):
    """A BERT whose output is one vector a text, of length 1."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Make the network that a BERT's ``config.json`` describes."""
        super().__init__()
        width, norm_eps = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], width)
        self.positions = nn.Embedding(config["max_position_embeddings"], width)
        self.types = nn.Embedding(config["type_vocab_size"], width)
        self.norm = nn.LayerNorm(width, norm_eps)
        layer = nn.TransformerEncoderLayer(
            width,
            config["num_attention_heads"],
            config["intermediate_size"],
            activation=config["hidden_act"],
            layer_norm_eps=norm_eps,
            batch_first=True,
        )
        self.encoder = nn.TransformerEncoder(layer, config["num_hidden_layers"], enable_nested_tensor=False)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Embeddings [n, width] of token ids [n, tokens]; ``mask`` [n, tokens] is 1 for a token and 0 for padding."""
        places = torch.arange(ids.shape[1], device=ids.device)
        # All tokens are of the first of a pair of texts.
        x = self.norm(self.words(ids) + self.positions(places) + self.types.weight[0])  # [n, tokens, width]
        # Without padding, torch's attention is half as fast again if it is given no mask.
        x = self.encoder(x, src_key_padding_mask=None if mask.all() else mask == 0)
        own = mask[..., None].to(x.dtype)
        return F.normalize((x * own).sum(1) / own.sum(1))


def load_sentence_encoder(folder: Path) -> SentenceEncoder:
    """The network in a folder of transformers, float32 and in evaluation mode.

    Most of its weights stay in the file: they are mapped, which all processes of a machine share.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the weights are not those of the architecture.
    """
    config = json.loads((folder / "config.json").read_text())
    network = SentenceEncoder(config)
    try:
        weights = dict(_weights(load_file(folder / "model.safetensors"), config["num_hidden_layers"]))
        network.load_state_dict(weights, assign=True)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{folder} does not hold the weights that its config.json describes: {error}") from error
    return network.eval()


def _weights(file: Mapping[str, Tensor], layers: int) -> Iterator[tuple[str, Tensor]]:
    """The parameters of :class:`SentenceEncoder` from those of a BERT."""
    for own, theirs in (("words", "word"), ("positions", "position"), ("types", "token_type")):
        yield f"{own}.weight", file[f"embeddings.{theirs}_embeddings.weight"]
    for kind in ("weight", "bias"):
        yield f"norm.{kind}", file[f"embeddings.LayerNorm.{kind}"]
        for number in range(layers):
            own, theirs = f"encoder.layers.{number}", f"encoder.layer.{number}"
            heads = [file[f"{theirs}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            yield f"{own}.self_attn.in_proj_{kind}", torch.cat(heads)
            for part, its in _PARTS.items():
                yield f"{own}.{part}.{kind}", file[f"{theirs}.{its}.{kind}"]
