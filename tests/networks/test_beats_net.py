import itertools
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.networks.random_beats import FULL, SMALL, audio, bucket, plain_tokens, random_checkpoint, random_weights
from vemoclap_batch.networks.beats import distance_buckets, load_beats
from vemoclap_batch.networks.beats_config import ACTIVATIONS, BeatsConfig

pytestmark = pytest.mark.numeric

DATA = Path(__file__).parents[1] / "data"
#: Each differs from the published architecture in another way, or in several.
CFGS = {
    "published": {},
    "no deep norm": {"deep_norm": False},
    "norm first": {"layer_norm_first": True},
    "norm first, no deep norm": {"layer_norm_first": True, "deep_norm": False},
    "no relative position": {"relative_position_embedding": False},
    "not gated": {"gru_rel_pos": False},
    "neither": {"relative_position_embedding": False, "gru_rel_pos": False},
    "conv bias": {"conv_bias": True},
    "one layer, one head": {"encoder_layers": 1, "encoder_attention_heads": 1},
    "wider, more layers": {"encoder_layers": 3, "encoder_embed_dim": 24, "encoder_attention_heads": 4},
    "no projection": {"embed_dim": 16},
    "few buckets": {"num_buckets": 9, "max_distance": 5},
    "patches of 12": {"input_patch_size": 12},
    "patches of 32": {"input_patch_size": 32},
    "odd kernel": {"conv_pos": 5},
    "pre-trained": {"finetuned_model": False},
    **{activation: {"activation_fn": activation} for activation in ACTIVATIONS},
}


def network_of(path, **cfg):
    return load_beats(random_checkpoint(path / "random.pt", **(SMALL | cfg)))


def error(found, expected):
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture
def run():
    with torch.inference_mode():
        yield


@pytest.fixture
def small(tmp_path):
    return network_of(tmp_path)


@pytest.mark.usefixtures("run")
def test_equals_the_published_network():
    expected = load_file(DATA / "beats_tiny_expected.safetensors")
    network = load_beats(DATA / "beats_tiny.pt")
    waveform = expected["waveform"]
    # Each processor's FFT rounds differently, and the logarithm enlarges that where there is little sound.
    assert error(network.fbank(waveform), expected["fbank"]) < 1e-4
    assert error(network(waveform), expected["tokens"]) < 1e-5
    embedding = network.embed(waveform)
    assert error(embedding, expected["embedding"]) < 1e-5
    assert error(network.events(embedding.mean(0)), expected["clip_probabilities"]) < 1e-5
    assert network.labels[:2] == ("/m/0000", "/m/0001")
    assert not network.training


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("cfg", CFGS.values(), ids=CFGS)
def test_any_architecture_of_the_family(tmp_path, cfg):
    cfg = SMALL | cfg
    network = network_of(tmp_path, **cfg)
    waveform = torch.stack([audio(9000), audio(9000, seed=1)])
    tokens = network(waveform)
    weights = random_weights(cfg)
    for row, fbank in enumerate(network.fbank(waveform)):
        assert error(tokens[row], plain_tokens(cfg, weights, fbank)) < 1e-5
    assert tokens.shape[2] == cfg["encoder_embed_dim"]


@pytest.mark.parametrize("cfg", CFGS.values(), ids=CFGS)
def test_parameters_have_the_names_of_the_original(tmp_path, cfg):
    state = network_of(tmp_path, **cfg).state_dict()
    weights = random_weights(SMALL | cfg)
    assert set(state) == set(weights)
    assert all(torch.equal(state[name], weights[name]) for name in weights)


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("cfg", CFGS.values(), ids=CFGS)
def test_a_padded_waveform_gives_what_it_gives_unpadded(tmp_path, cfg):
    network = network_of(tmp_path, **cfg)
    lengths = [48_000, 47_999, 30_000, 10_000, network.shortest]
    waveforms = [audio(length, seed) for seed, length in enumerate(lengths)]
    # What the padding holds does not matter.
    waveform = torch.stack([torch.cat([one, audio(48_000 - len(one), 9)]) for one in waveforms])
    together, embeddings = network(waveform, torch.tensor(lengths)), network.embed(waveform, torch.tensor(lengths))
    for tokens, embedding, one in zip(together, embeddings, waveforms, strict=True):
        [alone] = network(one[None])
        assert error(tokens[: len(alone)], alone) < 1e-5
        assert not tokens[len(alone) :].any()
        assert error(embedding, alone.mean(0)) < 1e-5
        assert error(network.embed(one[None])[0], alone.mean(0)) < 1e-5


@pytest.mark.usefixtures("run")
def test_lengths_are_of_any_whole_type(small):
    lengths = torch.tensor([9000, 20_000])
    waveform = torch.stack([audio(20_000), audio(20_000, seed=1)])
    assert torch.equal(small(waveform, lengths), small(waveform, lengths.int()))
    assert error(small(waveform, torch.tensor([20_000, 20_000])), small(waveform)) < 1e-6


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("samples", [1, 400, 2799])
def test_a_waveform_shorter_than_a_patch_is_one_patch(small, samples):
    [one] = small(torch.cat([audio(samples), torch.zeros(2800 - samples)])[None])
    [tokens] = small(torch.cat([audio(samples), audio(48_000 - samples, 1)])[None], torch.tensor([samples]))
    assert one.shape == (8, 16)
    assert error(tokens[:8], one) < 1e-5
    assert not tokens[8:].any()


@pytest.mark.usefixtures("run")
def test_lengths_that_cannot_be(small):
    waveform = torch.stack([audio(9000), audio(9000, seed=1)])
    for lengths, reason in (
        (torch.tensor([9000, 0]), r"int64 \[9000, 0\]; expected for each of 2 waveforms an int from 1 to 9000"),
        (torch.tensor([9001, 5]), r"\[9001, 5\]"),
        (torch.tensor([9000]), r"int64 \[9000\]; expected for each of 2"),
        (torch.tensor([9000.0, 9000.0]), "float32"),
        (torch.zeros(2, 9000, dtype=torch.bool), "bool"),
        (torch.ones(2, dtype=torch.bool), "bool"),
    ):
        with pytest.raises(ValueError, match=reason):
            small(waveform, lengths)
    with pytest.raises(ValueError, match="2799 samples: this network needs at least 2800"):
        small(waveform[:, :2799])


@pytest.mark.usefixtures("run")
def test_a_waveform_does_not_depend_on_the_others_of_its_batch(small):
    waveform = torch.stack([audio(48_000, seed) for seed in range(5)])
    together = small(waveform)
    for row, one in zip(together, waveform, strict=True):
        assert error(row, small(one[None])[0]) < 1e-5


@pytest.mark.usefixtures("run")
def test_events_are_independent_probabilities(small, tmp_path):
    weights = random_weights(SMALL)
    embedding = torch.linspace(-1, 1, 32).reshape(2, 16)
    expected = torch.special.expit(embedding @ weights["predictor.weight"].T + weights["predictor.bias"])
    assert error(small.events(embedding), expected) < 1e-6
    pretrained = network_of(tmp_path, finetuned_model=False)
    assert pretrained.labels == ()
    with pytest.raises(ValueError, match="no predictor"):
        pretrained.events(embedding)


@pytest.mark.parametrize(("buckets", "farthest"), [(320, 800), (32, 80), (9, 5), (4, 2)])
def test_distance_buckets(buckets, farthest):
    cfg = {"num_buckets": buckets, "max_distance": farthest}
    found = distance_buckets(200, buckets, farthest)
    expected = [[bucket(cfg, key - query) for key in range(200)] for query in range(200)]
    assert found.tolist() == expected
    assert 0 <= found.min() <= found.max() < buckets


def test_full_size_has_the_sizes_of_the_published_one():
    published = BeatsConfig.of(FULL)
    assert (published.encoder_layers, published.encoder_embed_dim, published.predictor_class) == (12, 768, 527)
    # 90 million parameters, as the paper has it, counting the shared bias once.
    weights = random_weights(FULL | {"encoder_layers": 1})
    layer = sum(value.numel() for name, value in weights.items() if "layers.0" in name and "relative" not in name)
    rest = sum(value.numel() for value in weights.values()) - layer
    assert 89e6 < 12 * layer + rest < 92e6


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quant_n": 1024}, "'quant_n' is no setting of BEATs"),
        ({"encoder_layers": "12"}, "encoder_layers = '12': expected int"),
        ({"deep_norm": 1}, "deep_norm = 1: expected bool"),
        ({"encoder_layers": 0}, "encoder_layers = 0: expected at least 1"),
        ({"input_patch_size": -1}, "input_patch_size = -1"),
        ({"input_patch_size": 129}, "there are 128 mel bands"),
        ({"encoder_attention_heads": 3}, "encoder_attention_heads = 3 does not divide encoder_embed_dim = 16"),
        ({"conv_pos_groups": 5}, "conv_pos_groups = 5 does not divide"),
        ({"activation_fn": "selu"}, "activation_fn = 'selu': expected one of gelu"),
        ({"num_buckets": 3}, "num_buckets = 3"),
        ({"num_buckets": 320, "max_distance": 80}, "max_distance = 80"),
    ],
)
def test_unknown_architectures_are_refused(tmp_path, change, reason):
    path = tmp_path / "random.pt"
    torch.save({"cfg": SMALL | change, "model": random_weights(SMALL), "label_dict": {}}, path)
    with pytest.raises(ValueError, match=reason) as found:
        load_beats(path)
    assert str(path) in str(found.value)


def test_all_mistakes_of_a_configuration_are_named():
    with pytest.raises(ValueError, match=r"'one' .*; 'two' .*; conv_bias = 3"):
        BeatsConfig.of(SMALL | {"one": 1, "two": 2, "conv_bias": 3})
    with pytest.raises(ValueError, match=r"heads = 5 .*; activation_fn = ''"):
        BeatsConfig.of(SMALL | {"encoder_attention_heads": 5, "activation_fn": ""})


def test_what_a_configuration_leaves_out_is_as_its_authors_left_it():
    config = BeatsConfig.of({"input_patch_size": 16})
    assert (config.max_distance, config.deep_norm, config.finetuned_model) == (1280, False, False)


def test_weights_have_to_be_those_of_the_configuration(tmp_path):
    path = tmp_path / "random.pt"
    weights = random_weights(SMALL)
    without = {name: value for name, value in weights.items() if name != "encoder.layers.1.fc2.bias"}
    for cfg, model, reason in (
        (SMALL, without, r"Missing key.*encoder\.layers\.1\.fc2\.bias"),
        (SMALL, weights | {"mask_emb": torch.zeros(3)}, "Unexpected key.*mask_emb"),
        (SMALL | {"encoder_ffn_embed_dim": 32}, weights, "size mismatch"),
        (SMALL | {"finetuned_model": False}, weights, r"Unexpected key.*predictor\.weight"),
        (SMALL, weights | {"layer_norm.bias": 5}, r"layer_norm\.bias"),
        (SMALL, weights | {5: torch.zeros(3)}, "no BEATs checkpoint"),
    ):
        torch.save({"cfg": cfg, "model": model}, path)
        with pytest.raises(ValueError, match=f"(?s){reason}"):
            load_beats(path)


def test_names_of_classes(tmp_path):
    path = tmp_path / "random.pt"
    checkpoint = {"cfg": SMALL, "model": random_weights(SMALL)}
    torch.save(checkpoint, path)
    assert load_beats(path).labels == ()
    backwards = {index: f"/m/{index}" for index in reversed(range(7))}
    torch.save(checkpoint | {"label_dict": backwards}, path)
    assert load_beats(path).labels == tuple(f"/m/{index}" for index in range(7))
    for names, count in ((dict(itertools.islice(backwards.items(), 6)), 6), (dict.fromkeys(range(7), 1), 7)):
        torch.save(checkpoint | {"label_dict": names}, path)
        with pytest.raises(ValueError, match=f"label_dict names {count} classes; expected a text for each of 0 to 6"):
            load_beats(path)


@pytest.mark.parametrize("content", [[1, 2], {"model": {}}, {"cfg": {}, "model": [1]}, {"cfg": "a", "model": {}}])
def test_other_checkpoints_are_refused(tmp_path, content):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"other\.pt is no BEATs checkpoint: expected a dict"):
        load_beats(path)


def test_broken_files_are_refused(tmp_path):
    path = random_checkpoint(tmp_path / "random.pt", **SMALL)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], b"", b"not a checkpoint" * 99, whole[100:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"random\.pt is broken, or holds more than weights"):
            load_beats(path)
    with pytest.raises(FileNotFoundError):
        load_beats(tmp_path / "absent.pt")


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_nothing_in_a_file_is_run(tmp_path):
    path, marker = tmp_path / "hostile.pt", tmp_path / "run"
    torch.save({"cfg": SMALL, "model": random_weights(SMALL), "label_dict": Hostile(marker)}, path)
    # The trap works: an ordinary load springs it.
    torch.load(path, weights_only=False)
    marker.unlink()
    with pytest.raises(ValueError, match="more than weights"):
        load_beats(path)
    path.write_bytes(pickle.dumps(Hostile(marker), protocol=2))
    with pytest.raises(ValueError, match="more than weights"):
        load_beats(path)
    assert not marker.exists()
