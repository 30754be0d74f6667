"""Random BEATs checkpoints in the original format, and the network as its paper has it, from the weights alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

#: What the published checkpoint has: iter3+ AS2M, fine-tuned (cpt2).
FULL = {
    "encoder_layers": 12,
    "embed_dim": 512,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "conv_bias": False,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "relative_position_embedding": True,
    "num_buckets": 320,
    "max_distance": 800,
    "gru_rel_pos": True,
    "deep_norm": True,
    "input_patch_size": 16,
    "finetuned_model": True,
    "predictor_class": 527,
    "predictor_dropout": 0.0,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "encoder_layerdrop": 0.05,
    "dropout_input": 0.0,
    "layer_wise_gradient_decay_ratio": 0.6,
}
#: Runs in milliseconds.
SMALL = FULL | {
    "encoder_layers": 2,
    "embed_dim": 12,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 2,
    "conv_pos": 8,
    "conv_pos_groups": 4,
    "num_buckets": 32,
    "max_distance": 80,
    "predictor_class": 7,
}


def random_checkpoint(path, *, seed=0, labels=None, **cfg):
    """Save a checkpoint with random weights; by default as large as the published one (360 MB).

    Args:
        path: the file to write.
        seed: of the weights.
        labels: AudioSet's id of each class; without them /m/0000 and so on.
        cfg: what differs from :data:`FULL`.
    """
    cfg = FULL | cfg
    checkpoint = {"cfg": cfg, "model": random_weights(cfg, seed)}
    if cfg["finetuned_model"]:
        labels = labels or [f"/m/{index:04d}" for index in range(cfg["predictor_class"])]
        checkpoint["label_dict"] = dict(enumerate(labels))
    torch.save(checkpoint, path)
    return path


def random_weights(cfg, seed=0):
    """Weights of an architecture under the names of the original, so large that every part of it matters."""
    random = torch.Generator().manual_seed(seed)
    width, inner, heads = cfg["encoder_embed_dim"], cfg["encoder_ffn_embed_dim"], cfg["encoder_attention_heads"]
    weights = {}

    def add(name, *shape, scale=1.0, shift=0.0):
        weights[name] = shift + scale * torch.randn(*shape, generator=random)

    def linear(name, outputs, inputs):
        add(f"{name}.weight", outputs, inputs, scale=inputs**-0.5)
        add(f"{name}.bias", outputs, scale=0.1)

    def norm(name, size):
        add(f"{name}.weight", size, scale=0.1, shift=1.0)
        add(f"{name}.bias", size, scale=0.1)

    side, embed = cfg["input_patch_size"], cfg["embed_dim"]
    add("patch_embedding.weight", embed, 1, side, side, scale=1 / side)
    if cfg["conv_bias"]:
        add("patch_embedding.bias", embed)
    norm("layer_norm", embed)
    if embed != width:
        linear("post_extract_proj", width, embed)
    kernel, groups = cfg["conv_pos"], cfg["conv_pos_groups"]
    add("encoder.pos_conv.0.bias", width, scale=0.1)
    add("encoder.pos_conv.0.weight_g", 1, 1, kernel, scale=0.1, shift=1.0)
    add("encoder.pos_conv.0.weight_v", width, width // groups, kernel)
    norm("encoder.layer_norm", width)
    shared = torch.randn(cfg["num_buckets"], heads, generator=random)
    for layer in range(cfg["encoder_layers"]):
        prefix = f"encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(f"{prefix}.self_attn.{part}", width, width)
        if cfg["relative_position_embedding"]:
            weights[f"{prefix}.self_attn.relative_attention_bias.weight"] = shared
        if cfg["gru_rel_pos"]:
            linear(f"{prefix}.self_attn.grep_linear", 8, width // heads)
            add(f"{prefix}.self_attn.grep_a", 1, heads, 1, 1, shift=1.0)
        if cfg["activation_fn"] == "glu":
            linear(f"{prefix}.fc1.linear", 2 * inner, width)
        else:
            linear(f"{prefix}.fc1", inner, width)
        linear(f"{prefix}.fc2", width, inner)
        norm(f"{prefix}.self_attn_layer_norm", width)
        norm(f"{prefix}.final_layer_norm", width)
    if cfg["finetuned_model"]:
        linear("predictor", cfg["predictor_class"], width)
    return weights


def audio(samples, seed=0):
    """Noise whose loudness changes, so that its frames differ."""
    random = np.random.default_rng(seed)
    loudness = 10 ** random.uniform(-3, -0.7, samples // 1600 + 1).repeat(1600)[:samples]
    return torch.from_numpy((loudness * random.normal(size=samples)).clip(-1, 1).astype(np.float32))


def plain_tokens(cfg, weights, fbank):
    """Tokens [n, width] of one log-mel spectrogram [frames, 128]: float64, one head and one token at a time."""
    w = {name: value.double() for name, value in weights.items()}
    width, deep = cfg["encoder_embed_dim"], cfg["deep_norm"]

    def linear(x, name):
        return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    side = cfg["input_patch_size"]
    patches = [
        fbank[time : time + side, band : band + side].double().flatten()
        for time in range(0, len(fbank) - side + 1, side)
        for band in range(0, 128 - side + 1, side)
    ]
    x = torch.stack(patches) @ w["patch_embedding.weight"].flatten(1).T + w.get("patch_embedding.bias", 0)
    x = norm(x, "layer_norm")
    if cfg["embed_dim"] != width:
        x = linear(x, "post_extract_proj")
    x = x + _position(cfg, w, x)
    if not cfg["layer_norm_first"]:
        x = norm(x, "encoder.layer_norm")
    weigh = (2 * cfg["encoder_layers"]) ** 0.25 if deep and not cfg["layer_norm_first"] else 1
    for layer in range(cfg["encoder_layers"]):
        prefix = f"encoder.layers.{layer}"
        for part, apply in (
            ("self_attn_layer_norm", lambda x, prefix=prefix: _attend(cfg, w, x, f"{prefix}.self_attn", linear)),
            ("final_layer_norm", lambda x, prefix=prefix: _feed_forward(cfg, x, prefix, linear)),
        ):
            if cfg["layer_norm_first"]:
                x = x + apply(norm(x, f"{prefix}.{part}"))
            else:
                x = norm(weigh * x + apply(x), f"{prefix}.{part}")
    return norm(x, "encoder.layer_norm") if cfg["layer_norm_first"] else x


def _position(cfg, w, x):
    """The convolution that tells where a token is: each output from the kernel's taps around it."""
    kernel, groups = cfg["conv_pos"], cfg["conv_pos_groups"]
    direction = w["encoder.pos_conv.0.weight_v"]
    taps = [
        w["encoder.pos_conv.0.weight_g"][0, 0, tap] * direction[..., tap] / direction[..., tap].pow(2).sum().sqrt()
        for tap in range(kernel)
    ]
    size = x.shape[1] // groups
    rows = []
    for place in range(len(x)):
        row = w["encoder.pos_conv.0.bias"].clone()
        for tap, weight in enumerate(taps):
            source = place + tap - kernel // 2
            if 0 <= source < len(x):
                for group in range(groups):
                    part = slice(group * size, (group + 1) * size)
                    row[part] += weight[part] @ x[source, part]
        rows.append(functional.gelu(row))
    return torch.stack(rows)


def _attend(cfg, w, x, prefix, linear):
    heads = cfg["encoder_attention_heads"]
    size = x.shape[1] // heads
    query, key, value = (linear(x, f"{prefix}.{part}_proj") for part in "qkv")
    outputs = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[:, part] @ key[:, part].T / size**0.5
        if cfg["relative_position_embedding"]:
            table = w[f"{prefix}.relative_attention_bias.weight"][:, head]
            bias = torch.tensor([[table[bucket(cfg, j - i)] for j in range(len(x))] for i in range(len(x))])
            if cfg["gru_rel_pos"]:
                gates = linear(query[:, part], f"{prefix}.grep_linear")
                update, reset = gates[:, :4].sum(1).sigmoid(), gates[:, 4:].sum(1).sigmoid()
                scale = w[f"{prefix}.grep_a"][0, head, 0, 0]
                bias = (update * (reset * scale - 1) + 2)[:, None] * bias
            scores = scores + bias
        outputs.append(scores.softmax(1) @ value[:, part])
    return linear(torch.cat(outputs, 1), f"{prefix}.out_proj")


def bucket(cfg, offset):
    """T5's bucket for a key so many tokens after its query."""
    side = cfg["num_buckets"] // 2
    near = side // 2
    distance = abs(offset)
    if distance >= near:
        distance = near + int(math.log(distance / near) / math.log(cfg["max_distance"] / near) * (side - near))
    return min(distance, side - 1) + (side if offset > 0 else 0)


def _feed_forward(cfg, x, prefix, linear):
    if cfg["activation_fn"] == "glu":
        both = linear(x, f"{prefix}.fc1.linear")
        value, gate = both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]
        return linear(value * gate * gate.sigmoid(), f"{prefix}.fc2")
    x = linear(x, f"{prefix}.fc1")
    gelu_tanh = lambda x: 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)))  # noqa: E731
    activation = {
        "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
        "gelu_accurate": gelu_tanh,
        "gelu_fast": gelu_tanh,
        "relu": lambda x: x.clamp(min=0),
        "tanh": torch.tanh,
        "linear": lambda x: x,
    }[cfg["activation_fn"]]
    return linear(activation(x), f"{prefix}.fc2")
