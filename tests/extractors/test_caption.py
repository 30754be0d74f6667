import json

import numpy as np
import pytest
import torch

from tests.extractors.conftest import broken_clip, frames_clip
from tests.extractors.tiny_models import blip_folder, build, hostile_pickle, hostile_weights, little_memory
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Result
from vemoclap_batch.extractors.caption import CPU_BATCH, PUBLISHED, Caption, frame_to_caption

pytestmark = pytest.mark.numeric


def image(seed, height=48, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def detected(count, seed=0, **detections):
    clip = frames_clip(*[image(1000 * seed + number, 40 + seed) for number in range(count)])
    clip.detections = {name: np.array(frames, np.int32) for name, frames in detections.items()}
    return clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return blip_folder(tmp_path_factory.mktemp("blip") / "tiny-blip")


@pytest.fixture
def extractor(folder):
    return build(Caption, folder, max_tokens=12)


@pytest.fixture
def clips():
    return [detected(3 + seed % 4, seed, face_emotion=[seed % 3]) for seed in range(7)]


@pytest.mark.parametrize(
    ("count", "detections", "expected"),
    [
        (0, {}, None),
        (1, {}, 0),
        (5, {}, 2),
        (16, {}, 7),
        (16, {"face_emotion": [], "ocr": []}, 7),
        (16, {"face_emotion": [3], "ocr": []}, 3),
        (16, {"face_emotion": [3, 12], "ocr": [12]}, 12),  # a face and a line
        (16, {"face_emotion": [3, 3], "ocr": [12, 12, 12]}, 12),  # three lines count more than two faces
        (16, {"face_emotion": [3, 3, 3], "ocr": [12, 12]}, 3),
        (16, {"face_emotion": [0, 6, 15], "ocr": []}, 6),  # equals: the nearest to the middle
        (16, {"face_emotion": [0, 15], "ocr": []}, 0),  # as near: the earlier
        (16, {"face_emotion": [7, 8], "ocr": [8]}, 8),
    ],
)
def test_frame_to_caption(count, detections, expected):
    assert frame_to_caption(detected(count, **detections)) == expected


def test_a_detection_outside_the_clip_is_that_clips_failure(extractor):
    good, bad = extractor.extract([detected(2), detected(2, face_emotion=[2])])
    assert isinstance(good, Result)
    assert bad == Failure.of(ValueError("face_emotion has a detection in frame 2; the clip has 2 frames"))


def test_caption_is_what_blip_makes_of_the_frame_to_caption(extractor, folder, clips):
    from transformers import BlipForConditionalGeneration, BlipImageProcessor

    network = BlipForConditionalGeneration.from_pretrained(folder).eval()
    prepare = BlipImageProcessor.from_pretrained(folder)
    words = (folder / "vocab.txt").read_text().split()
    captions, lengths = set(), set()
    for seed, (clip, result) in enumerate(zip(clips, extractor.extract(clips), strict=True)):
        number = seed % 3
        given = prepare(clip.frames[number], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            tokens = network.generate(given, max_new_tokens=12, num_beams=3, do_sample=False)[0].tolist()
        assert tokens[0] == len(words)  # beyond the vocabulary, so it says nothing
        tokens = tokens[1 : tokens.index(3) if 3 in tokens else None]
        expected = " ".join(words[token] for token in tokens if token > 4).replace(" ##", "").removeprefix("##")
        assert result.extras["caption"].removeprefix("##") == expected
        assert (result.extras["frame"], result.extras["time_s"]) == (number, clip.frame_times[number])
        assert result.feature.shape == (0, 0)
        captions.add(expected)
        lengths.add(len(tokens))
    assert len(captions) > 3  # the model tells images apart
    assert min(lengths) < 12  # some end by themselves


def test_batching_changes_nothing(extractor, clips):
    with little_memory(extractor._network.vision_model, CPU_BATCH) as sizes:
        together = extractor.extract(clips)
    assert sizes == [4, 3]
    for result, clip in zip(together, clips, strict=True):
        assert result.extras == extractor.extract([clip])[0].extras
    assert [result.extras for result in extractor.extract(clips)] == [result.extras for result in together]


def test_too_little_memory_halves_the_batch(extractor, clips):
    expected = [result.extras for result in extractor.extract(clips)]
    with little_memory(extractor._network.vision_model, 3) as sizes:
        assert [result.extras for result in extractor.extract(clips)] == expected
        assert sizes == [4, 2, 2, 2, 1]
    with little_memory(extractor._network.vision_model, 0):
        failures = extractor.extract(clips[:2])
    assert [str(failure.error_type) for failure in failures] == ["out_of_memory", "out_of_memory"]


def seen_by(extractor, clip):
    """The image encoder's output for the telling frame of a clip."""
    outputs = []
    hook = extractor._network.vision_model.register_forward_hook(lambda _, args, output: outputs.append(output[0]))
    (result,) = extractor.extract([clip])
    hook.remove()
    assert result.extras["caption"]
    return outputs[0].float()


def test_reduced_precision_is_close(extractor, folder):
    clip = detected(3)
    exact = seen_by(extractor, clip)
    rough = seen_by(build(Caption, folder, max_tokens=12, precision="bfloat16"), clip)
    assert 1e-5 < (rough - exact).abs().max() / exact.abs().max() < 0.05


def test_settings_bound_the_caption(folder):
    clip = detected(2)
    for most in (1, 5):
        outputs = []
        extractor = build(Caption, folder, max_tokens=most, beams=1)
        extractor._network.text_decoder.register_forward_hook(lambda *_, seen=outputs: seen.append(1))
        extractor.extract([clip])
        assert len(outputs) == most


def test_nothing_to_see(extractor):
    assert extractor.extract([]) == []
    nothing, something = extractor.extract([frames_clip(), detected(1)])
    assert nothing.extras == {"caption": None, "frame": None, "time_s": None}
    assert something.extras["caption"]


def test_a_broken_clip_fails_alone(extractor):
    good, bad, other = extractor.extract([detected(2), broken_clip(), detected(2)])
    assert isinstance(bad, Failure)
    assert isinstance(good, Result)
    assert good.extras == other.extras


def test_another_kind_of_captioner(folder, tmp_path):
    from transformers import GitConfig, GitForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    words = (folder / "vocab.txt").read_text()
    config = GitConfig(
        **sizes, vision_config=vision, vocab_size=len(words.split()), bos_token_id=2, eos_token_id=3,
        max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    GitForCausalLM(config).save_pretrained(tmp_path)
    processor = {"image_processor_type": "CLIPImageProcessor", "crop_size": 32, "size": {"shortest_edge": 32}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    (tmp_path / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text())
    (tmp_path / "vocab.txt").write_text(words)
    extractor = build(Caption, tmp_path, max_tokens=8)
    one, other = extractor.extract([detected(1, 1), detected(1, 2)])
    assert one.extras["caption"]
    assert one.extras["caption"] == extractor.extract([detected(1, 1)])[0].extras["caption"]
    assert isinstance(other, Result)


def test_wrong_weights_are_refused(tmp_path, folder):
    lacking = blip_folder(tmp_path)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    del weights["vision_model.post_layernorm.weight"]
    torch.save(weights, lacking / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"lacks weights of Blip.*: vision_model\.post_layernorm\.weight$"):
        build(Caption, lacking)
    with pytest.raises(NotADirectoryError):
        build(Caption, folder / "pytorch_model.bin")


def test_hostile_weights_are_not_run(tmp_path, folder):
    marker, hostile = tmp_path / "run", blip_folder(tmp_path / "hostile")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    hostile_weights(hostile / "pytorch_model.bin", marker, weights)
    with pytest.raises(ValueError, match="more than weights"):
        build(Caption, hostile)
    hostile_pickle(hostile / "pytorch_model.bin", marker)
    with pytest.raises(ValueError, match="more than weights"):
        build(Caption, hostile)
    assert not marker.exists()


def test_there_is_no_feature():
    settings = Caption.Settings()
    assert Caption.references(settings) == {"model": PUBLISHED}
    assert (Caption.space(settings), Caption.width(settings)) == (None, 0)
