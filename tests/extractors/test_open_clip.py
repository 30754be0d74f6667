"""CLIP by open_clip; it and torchvision take seconds to import, so that only tests that need them do."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from tests.extractors.conftest import broken_clip, frames_clip
from tests.extractors.tiny_models import (
    CLIP_MEAN,
    CLIP_STD,
    CLIP_WIDTH,
    build,
    clip_config,
    clip_folder,
    clip_weights,
    hostile_pickle,
    hostile_weights,
    little_memory,
)
from tests.tolerance import assert_near
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Resources, Result
from vemoclap_batch.extractors.open_clip import CPU_BATCH, PUBLISHED, OpenClip

pytestmark = pytest.mark.numeric

REFERENCE = Path(__file__).parents[1] / "data" / "clip_preprocess.safetensors"


def image(seed, height=48, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def images_clip(seeds, height=48, width=64):
    return frames_clip(*[image(seed, height, width) for seed in seeds])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip") / "tiny-clip")


@pytest.fixture
def architecture(tmp_path):
    """A function that makes a configuration known to open_clip by a name."""

    def register(name, config):
        import open_clip

        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / f"{name}.json")
        return name

    return register


@pytest.fixture
def extractor(folder):
    return build(OpenClip, folder, width=CLIP_WIDTH)


def fed(extractor, clip):
    """What the network is given for a clip."""
    seen = []
    hook = extractor._network.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    extractor.extract([clip])
    hook.remove()
    return torch.cat(seen)


def transformer(weights, images, activation):
    """CLIP's vision transformer as its paper has it, from the weights alone: embeddings [n, width]."""
    w = {name.removeprefix("visual."): value for name, value in weights.items()}

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    patches = w["conv1.weight"]  # [width, 3, side, side]
    x = functional.conv2d(images, patches, stride=patches.shape[-1]).flatten(2).transpose(1, 2)  # [n, patches, width]
    x = torch.cat([w["class_embedding"].expand(len(x), 1, -1), x], 1) + w["positional_embedding"]
    x = norm(x, "ln_pre")
    for layer in range(2):
        block = f"transformer.resblocks.{layer}"
        projected = functional.linear(
            norm(x, f"{block}.ln_1"), w[f"{block}.attn.in_proj_weight"], w[f"{block}.attn.in_proj_bias"]
        )
        heads = projected.unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)  # [3, n, heads, tokens, 16]
        query, key, value = heads
        attended = (query @ key.transpose(-1, -2) / 4).softmax(-1) @ value
        x = x + functional.linear(
            attended.transpose(1, 2).flatten(2), w[f"{block}.attn.out_proj.weight"], w[f"{block}.attn.out_proj.bias"]
        )
        inner = functional.linear(norm(x, f"{block}.ln_2"), w[f"{block}.mlp.c_fc.weight"], w[f"{block}.mlp.c_fc.bias"])
        x = x + functional.linear(activation(inner), w[f"{block}.mlp.c_proj.weight"], w[f"{block}.mlp.c_proj.bias"])
    return norm(x[:, 0], "ln_post") @ w["proj"]


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def difference(one, other):
    return np.abs(one - other).max() / np.abs(other).max()


def test_input_is_that_of_the_published_program(extractor):
    reference = load_file(REFERENCE)
    frames, expected = reference["frames"].numpy(), reference["expected"]
    given = fed(extractor, frames_clip(*frames))
    assert given.shape == expected.shape
    assert (given - expected).abs().max() < 1e-4


@pytest.mark.parametrize(("height", "width"), [(360, 641), (641, 360), (227, 224), (224, 224), (90, 161), (100, 1001)])
def test_input_of_any_size_is_that_of_torchvision(extractor, height, width):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize

    frame = image(1, height, width)
    steps = [Resize(224, InterpolationMode.BICUBIC, antialias=True), CenterCrop(224), Normalize(CLIP_MEAN, CLIP_STD)]
    expected = Compose(steps)(torch.from_numpy(frame).permute(2, 0, 1)[None] / 255)
    given = fed(extractor, frames_clip(frame))
    assert (given - expected).abs().max() < 1e-4


def test_embedding_is_the_projected_one_with_quick_gelu_and_not_normalised(extractor, folder):
    weights = load_file(folder / "open_clip_model.safetensors")
    clip = images_clip(range(3))
    (result,) = extractor.extract([clip])
    given = fed(extractor, clip)
    assert result.feature.shape == (3, CLIP_WIDTH)
    assert result.feature.dtype == np.float32
    np.testing.assert_array_equal(result.start_s, clip.frame_times)
    np.testing.assert_array_equal(result.end_s, clip.frame_times)
    assert difference(result.feature, transformer(weights, given, quick_gelu).numpy()) < 1e-5
    assert difference(result.feature, transformer(weights, given, functional.gelu).numpy()) > 1e-3
    assert np.abs(np.linalg.norm(result.feature, axis=1) - 1).min() > 0.1


def test_published_model_is_built_with_quick_gelu():
    import open_clip

    settings = OpenClip.Settings()
    config = open_clip.get_model_config(settings.architecture)
    assert config["quick_gelu"] is True
    assert (config["embed_dim"], config["vision_cfg"]["patch_size"]) == (512, 32)
    tag = open_clip.get_pretrained_cfg("ViT-B-32", "openai")
    assert f"hf:{tag['hf_hub'].rstrip('/')}" == PUBLISHED
    assert OpenClip.references(settings) == {"model": PUBLISHED}


def test_openai_weights_are_never_built_with_plain_gelu(tmp_path, architecture):
    config = clip_config(quick_gelu=False)
    plain = clip_folder(tmp_path / "plain", config)
    settings = OpenClip.Settings(model=PUBLISHED, width=CLIP_WIDTH)
    with pytest.raises(ValueError, match="QuickGELU"):
        OpenClip(settings, Resources(models={"model": plain}))
    settings = settings.model_copy(update={"architecture": architecture("tiny-plain", config)})
    with pytest.raises(ValueError, match="QuickGELU"):
        OpenClip(settings, Resources(models={"model": plain / "open_clip_model.safetensors"}))
    right = clip_folder(tmp_path / "right")
    OpenClip(OpenClip.Settings(model=PUBLISHED, width=CLIP_WIDTH), Resources(models={"model": right}))
    # Another's model, trained with plain GELU, is built with it.
    other = build(OpenClip, plain, width=CLIP_WIDTH)
    clip = images_clip(range(2))
    weights = load_file(plain / "open_clip_model.safetensors")
    expected = transformer(weights, fed(other, clip), functional.gelu).numpy()
    assert difference(other.extract([clip])[0].feature, expected) < 1e-5


def test_weights_file_is_built_as_its_architecture(extractor, tmp_path, folder, architecture):
    name = architecture("tiny-quick", clip_config())
    weights = load_file(folder / "open_clip_model.safetensors")
    save_file(weights, tmp_path / "weights.safetensors")
    torch.save(weights, tmp_path / "weights.pt")
    torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "trained.pt")
    clip = images_clip(range(2))
    expected = extractor.extract([clip])[0].feature
    for file in ("weights.safetensors", "weights.pt", "trained.pt"):
        loaded = build(OpenClip, tmp_path / file, architecture=name, width=CLIP_WIDTH)
        assert_near(loaded.extract([clip])[0].feature, expected)


def test_model_with_images_of_its_own(tmp_path):
    from torchvision.transforms import Compose, InterpolationMode, Normalize, Resize

    config = clip_config(image_size=56, width=12)
    folder = clip_folder(
        tmp_path, config, mean=[0.5] * 3, std=[0.25] * 3, interpolation="bilinear", resize_mode="squash"
    )
    extractor = build(OpenClip, folder, width=12)
    frame = image(0, 100, 180)
    steps = [Resize((56, 56), InterpolationMode.BILINEAR, antialias=True), Normalize([0.5] * 3, [0.25] * 3)]
    expected = Compose(steps)(torch.from_numpy(frame).permute(2, 0, 1)[None] / 255)
    clip = frames_clip(frame)
    given = fed(extractor, clip)
    assert (given - expected).abs().max() < 1e-5
    weights = load_file(folder / "open_clip_model.safetensors")
    assert difference(extractor.extract([clip])[0].feature, transformer(weights, given, quick_gelu).numpy()) < 1e-5


@pytest.mark.parametrize("wrong", [{"resize_mode": "longest"}, {"interpolation": "random"}])
def test_unknown_preparations_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        build(OpenClip, clip_folder(tmp_path, **wrong), width=CLIP_WIDTH)


def test_coca(tmp_path):
    import open_clip

    config = clip_config() | {
        "multimodal_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
    }
    config["vision_cfg"] |= {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    config["text_cfg"] |= {"embed_cls": True, "output_tokens": True}
    torch.manual_seed(0)
    model = open_clip.CoCa(**config).eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    folder = clip_folder(tmp_path, config | {"custom_text": True}, weights)
    extractor = build(OpenClip, folder, width=CLIP_WIDTH)
    clip = images_clip(range(2))
    with torch.inference_mode():
        expected = model.encode_image(fed(extractor, clip), normalize=False).numpy()
    assert difference(extractor.extract([clip])[0].feature, expected) < 1e-5


def test_batching_changes_nothing(extractor):
    clips = [images_clip(range(19)), frames_clip(), images_clip(range(20, 27), 90, 50), images_clip([30])]
    with little_memory(extractor._network, CPU_BATCH) as sizes:
        together = extractor.extract(clips)
    assert sizes == [16, 11]
    for result, clip in zip(together, clips, strict=True):
        (alone,) = extractor.extract([clip])
        assert result.feature.shape == (len(clip.frames), CLIP_WIDTH)
        assert np.abs(result.feature - alone.feature).max(initial=0) < 1e-5 * np.abs(alone.feature).max(initial=1)


def test_too_little_memory_halves_the_batch(extractor):
    clips = [images_clip(range(10)), images_clip(range(10, 20))]
    expected = [result.feature for result in extractor.extract(clips)]
    with little_memory(extractor._network, 5) as sizes:
        results = extractor.extract(clips)
        assert sizes == [16, 8, 4, 4, 4, 4, 4]
        for result, feature in zip(results, expected, strict=True):
            assert difference(result.feature, feature) < 1e-5
        sizes.clear()
        extractor.extract(clips[:1])
        assert sizes == [4, 4, 2]  # what was learnt holds
    with little_memory(extractor._network, 0):
        failures = extractor.extract(clips)
    assert [str(failure.error_type) for failure in failures] == ["out_of_memory", "out_of_memory"]


def test_reduced_precision_is_close(extractor, folder):
    clip = images_clip(range(4))
    exact = extractor.extract([clip])[0].feature
    rough = build(OpenClip, folder, width=CLIP_WIDTH, precision="bfloat16").extract([clip])[0].feature
    assert rough.dtype == np.float32
    assert 1e-5 < difference(rough, exact) < 0.03


def test_nothing_to_see(extractor):
    assert extractor.extract([]) == []
    (result,) = extractor.extract([frames_clip()])
    assert result.feature.shape == (0, CLIP_WIDTH)
    assert len(result.start_s) == 0


def test_a_broken_clip_fails_alone(extractor):
    clip = images_clip(range(2))
    good, bad, other = extractor.extract([clip, broken_clip(), clip])
    assert isinstance(bad, Failure)
    assert isinstance(good, Result)
    assert_near(good.feature, other.feature)


def test_wrong_weights_are_refused(tmp_path, folder):
    weights = load_file(folder / "open_clip_model.safetensors")
    lacking = {name: value for name, value in weights.items() if name != "visual.ln_post.weight"}
    with pytest.raises(ValueError, match=r"visual\.ln_post\.weight"):
        build(OpenClip, clip_folder(tmp_path / "lacking", weights=lacking), width=CLIP_WIDTH)
    wider = clip_folder(tmp_path / "wider", weights=clip_weights(clip_config(width=24)))
    with pytest.raises(ValueError, match="size mismatch"):
        build(OpenClip, wider, width=CLIP_WIDTH)
    with pytest.raises(ValueError, match=r"width = 512: .* makes embeddings of 16"):
        build(OpenClip, folder)
    bare = clip_folder(tmp_path / "bare")
    (bare / "open_clip_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"bare does not hold the weights"):
        build(OpenClip, bare, width=CLIP_WIDTH)
    (bare / "open_clip_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no open_clip_config\.json"):
        build(OpenClip, bare, width=CLIP_WIDTH)
    with pytest.raises(ValueError, match="'no-such'"):
        build(OpenClip, folder / "open_clip_model.safetensors", architecture="no-such")


def test_a_text_tower_is_not_fetched(tmp_path):
    config = clip_config()
    folder = clip_folder(tmp_path, config)
    config["text_cfg"]["hf_model_name"] = "owner/name"
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    with pytest.raises(ValueError, match="owner/name"):
        build(OpenClip, folder, width=CLIP_WIDTH)


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "weights.pt"])
def test_hostile_weights_are_not_run(tmp_path, folder, architecture, name):
    marker, path = tmp_path / "run", tmp_path / "model" / name
    weights = load_file(folder / "open_clip_model.safetensors")
    (clip_folder(tmp_path / "model") / "open_clip_model.safetensors").unlink()
    model = path if path.suffix == ".pt" else path.parent
    settings = {"width": CLIP_WIDTH, "architecture": architecture("tiny-quick", clip_config())}
    hostile_weights(path, marker, weights)
    with pytest.raises(ValueError, match="more than weights"):
        build(OpenClip, model, **settings)
    hostile_pickle(path, marker)
    with pytest.raises(ValueError, match="more than weights"):
        build(OpenClip, model, **settings)
    assert not marker.exists()


def test_spaces():
    assert OpenClip.space(OpenClip.Settings()) == "vemoclap/clip-vit-b32-openai"
    one_file = OpenClip.Settings(model=f"{PUBLISHED}/open_clip_model.safetensors")
    assert OpenClip.space(one_file) == "vemoclap/clip-vit-b32-openai"
    assert OpenClip.space(OpenClip.Settings(model="hf:laion/other")) == "hub/laion/other"
    assert OpenClip.space(OpenClip.Settings(model="/models/mine", width=640)) == "local/mine"
    assert OpenClip.space(OpenClip.Settings(model="/models/mine", space="lab/mine")) == "lab/mine"
    assert OpenClip.width(OpenClip.Settings(width=640)) == 640
