"""The paper profile from video files to the classifier's input, against the published system written out plainly.

One frame, one face, one window and one text at a time, with nothing shared between them.
"""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.extractors.paper_models import BEATS, WIDTHS, paper, paper_config, place
from tests.extractors.test_open_clip import quick_gelu, transformer
from tests.extractors.test_translation import plainly as plain_reading
from tests.extractors.test_whisper_model import plainly as plain_speech
from tests.extractors.tiny_faces import alone
from tests.extractors.tiny_models import CLIP_MEAN, CLIP_STD
from tests.networks.random_beats import plain_tokens
from vemoclap_batch.config import load_config
from vemoclap_batch.extractors import beats, caption, open_clip, sentiment, translated_ocr, yolo_face
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.paddle_models import bundled_detector, bundled_recogniser
from vemoclap_batch.extractors.registry import WeightsError, resolve
from vemoclap_batch.fusion import published
from vemoclap_batch.fusion.data import Examples, to_tensors
from vemoclap_batch.fusion.spec import FusionSpec
from vemoclap_batch.models.hashes import NAME as MANIFEST
from vemoclap_batch.networks.beats import load_beats

pytestmark = pytest.mark.numeric

CAR, GREY, PERSON = range(3)
#: Of the released classifier, from its authors' files.
MINIMUM_MAXIMUM = {
    "asr_sentiment": (-3.8625615, 31.99348),
    "beats": (-4.46773, 6.2564635),
    "clip": (-11.513216, 5.377771),
    "face_emotion": (-93.499756, 83.87972),
    "ocr_sentiment": (-3.5364149, 31.442732),
}


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    return paper(tmp_path_factory)


@pytest.fixture(scope="module")
def faces(small, tmp_path_factory):
    """Of each clip: the feature, the times of its rows and the faces, each with its frame first."""
    folder = tmp_path_factory.mktemp("plain") / "tiny"
    (folder / "faces").mkdir(parents=True)
    (folder / "faces" / "model.pt").symlink_to(place(small.models, yolo_face.DETECTOR))
    (folder / "expressions").symlink_to(place(small.models, yolo_face.EXPRESSIONS))
    return [alone(folder.parent, clip, small.specs["face_emotion"].settings) for clip in small.clips]


@pytest.fixture(scope="module")
def writing(small, tmp_path_factory):
    """Of each clip: the lines of every frame, and (text, language, English) of every different one."""
    reader = plain_reader(tmp_path_factory.mktemp("plain-reader"))
    folders = {
        "language": place(small.models, translated_ocr.LANGUAGE),
        "translation": place(small.models, translated_ocr.TRANSLATION),
    }
    found = []
    for clip in small.clips:
        pages = [reader.predict([frame[:, :, ::-1].copy()])[0] for frame in clip.frames]
        lines = [
            [text for text, score in zip(page["rec_texts"], page["rec_scores"], strict=True) if score >= 0.8]
            for page in pages
        ]
        texts = dict.fromkeys(" ".join(frame).lower() for frame in lines if frame)
        readings = [(text, *plain_reading(folders, text)) for text in texts]
        found.append((lines, [(text, language, english) for text, language, _, english in readings]))
    return found


@pytest.fixture(scope="module")
def speech(small):
    """Of each clip: its language, how sure that is, and what is said; None without speech."""
    from faster_whisper.vad import get_speech_timestamps

    found = []
    for clip in small.clips:
        pieces = [clip.waveform[piece["start"] : piece["end"]] for piece in get_speech_timestamps(clip.waveform)]
        audio = np.concatenate([*pieces, np.zeros(0, np.float32)])
        assert len(audio) < 30 * 16_000
        found.append(plain_speech(small.models / ".whisper" / "transformers", audio) if pieces else None)
    return found


@pytest.fixture(scope="module")
def plain(small, faces, writing, speech):
    """Feature → the published one of each clip, [length, width]."""
    said = [heard[2] if heard else "" for heard in speech]
    written = [english_of(texts) for _, texts in writing]
    return {
        "asr_sentiment": [plain_sentiment(small.models, text)[0] for text in said],
        "beats": [plain_beats(small.models, clip.waveform) for clip in small.clips],
        "clip": [plain_clip(small.models, clip.frames) for clip in small.clips],
        "face_emotion": [feature for feature, _, _ in faces],
        "ocr_sentiment": [plain_sentiment(small.models, text)[0] for text in written],
    }


def plain_reader(folder):
    """PaddleOCR's own pipeline on the bundled models."""
    from paddleocr import PaddleOCR

    detector, recogniser = bundled_detector(folder), bundled_recogniser(folder)
    return PaddleOCR(
        text_detection_model_name=detector.name, text_detection_model_dir=str(detector),
        text_recognition_model_name=recogniser.name, text_recognition_model_dir=str(recogniser),
        use_doc_orientation_classify=False, use_doc_unwarping=False, use_textline_orientation=False,
        text_recognition_batch_size=1, device="cpu", engine="onnxruntime",
        engine_config={"intra_op_num_threads": 1},
    )  # fmt: skip


def plain_clip(models, frames):
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize

    weights = load_file(place(models, open_clip.PUBLISHED) / "open_clip_model.safetensors")
    prepare = Compose(
        [Resize(224, InterpolationMode.BICUBIC, antialias=True), CenterCrop(224), Normalize(CLIP_MEAN, CLIP_STD)]
    )
    images = [prepare(torch.from_numpy(frame.copy()).permute(2, 0, 1)[None] / 255) for frame in frames]
    return np.concatenate([transformer(weights, image, quick_gelu).numpy() for image in images])


def plain_beats(models, waveform):
    network = load_beats(place(models, beats.PUBLISHED))
    starts = list(range(0, len(waveform) - 48_000 + 1, 24_000))
    if len(starts) > 16:
        starts = [starts[round(place)] for place in np.linspace(0, len(starts) - 1, 16)]
    windows = [torch.from_numpy(waveform[start : start + 48_000])[None] for start in starts]
    with torch.inference_mode():
        vectors = [network(window)[0].mean(0).numpy() for window in windows]
    return np.array(vectors).reshape(-1, WIDTHS["beats"])


def plain_sentiment(models, text):
    """The vector, [1, width] or none at all, and the probabilities of negative, neutral and positive."""
    from transformers import AutoTokenizer, RobertaForSequenceClassification

    if not text:
        return np.zeros((0, WIDTHS["asr_sentiment"]), np.float32), None
    folder = place(models, sentiment.PUBLISHED)
    network = RobertaForSequenceClassification.from_pretrained(folder).eval()
    tokens = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=512, return_tensors="pt")
    with torch.inference_mode():
        hidden = network.roberta(**tokens).last_hidden_state
        return hidden[:, 0].numpy(), network.classifier(hidden).softmax(-1)[0].numpy()


def plain_caption(models, frame):
    from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipImageProcessor

    folder = place(models, caption.PUBLISHED)
    pixels = BlipImageProcessor.from_pretrained(folder)(frame, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        tokens = BlipForConditionalGeneration.from_pretrained(folder).generate(
            pixels, max_new_tokens=40, num_beams=3, do_sample=False
        )
    return AutoTokenizer.from_pretrained(folder).decode(tokens[0], skip_special_tokens=True).strip()


def english_of(texts):
    return ". ".join(dict.fromkeys(english for _, _, english in texts))


def assert_close(found, expected):
    assert found.shape == expected.shape
    if expected.size:
        assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_detector_is_refused_until_it_is_accepted(small, tmp_path):
    models = shutil.copytree(small.models, tmp_path / "models", ignore=shutil.ignore_patterns(MANIFEST, ".whisper"))
    with pytest.raises(WeightsError, match=r"model\.pt is refused: it is a pickle.*models verify --accept"):
        resolve(paper_config(models))


@pytest.mark.parametrize("name", sorted(WIDTHS))
def test_features_are_the_published_ones(small, plain, name):
    for result, expected in zip(small.results[name], plain[name], strict=True):
        assert_close(result.feature, expected)


def test_frames_without_a_face_are_skipped_and_the_two_largest_faces_count(small, faces):
    counts = []
    for clip, result, (_, seen, found) in zip(small.clips, small.results["face_emotion"], faces, strict=True):
        assert result.start_s.tolist() == seen
        assert [(face["frame"], face["expression"]) for face in result.extras["faces"]] == [
            (frame, name) for frame, *_, name, _ in found
        ]
        counts.append([sum(face[0] == frame for face in found) for frame in range(len(clip.frames))])
    assert 0 in counts[PERSON]
    assert max(counts[PERSON]) > 2
    assert min(counts[CAR]) > 0
    assert not any(counts[GREY])


def test_audio_has_windows_and_events(small, plain):
    checkpoint = torch.load(place(small.models, beats.PUBLISHED), weights_only=True)
    predictor = checkpoint["model"]["predictor.weight"], checkpoint["model"]["predictor.bias"]
    network = load_beats(place(small.models, beats.PUBLISHED))
    for clip, result, feature in zip(small.clips, small.results["beats"], plain["beats"], strict=True):
        if not len(feature):
            assert result.extras["events"] == []
            continue
        likely = torch.nn.functional.linear(torch.from_numpy(feature.mean(0)), *predictor).sigmoid().numpy()
        best = np.argsort(-likely)[:5]
        assert [event["id"] for event in result.extras["events"]] == [checkpoint["label_dict"][at] for at in best]
        assert [event["probability"] for event in result.extras["events"]] == pytest.approx(likely[best], rel=1e-4)
        assert len({event["label"] for event in result.extras["events"]}) == 5
        # The last window as the network's paper has it, token by token.
        start = round(result.start_s[-1] * 16_000)
        fbank = network.fbank(torch.from_numpy(clip.waveform[start : start + 48_000])[None])[0]
        assert_close(result.feature[-1], plain_tokens(BEATS, checkpoint["model"], fbank).mean(0).numpy())
    # More windows than are kept, so they are spread; fewer; none.
    assert len(small.clips[CAR].waveform) > 48_000 + 16 * 24_000
    assert small.results["beats"][CAR].end_s[-1] == 27
    assert [len(feature) for feature in plain["beats"]] == [16, 0, 5]


def test_writing_is_read_and_told_in_english(small, writing):
    languages = set()
    for result, (_, texts) in zip(small.results["ocr"], writing, strict=True):
        assert [(row["text"], row["language"], row["english"]) for row in result.extras["texts"]] == texts
        assert result.extras["text"] == english_of(texts)
        languages |= {language for _, language, _ in texts}
    # Every case did occur: English, unknown and foreign ones, which were translated.
    assert languages > {None, "en"}
    for _, texts in (writing[CAR], writing[PERSON]):
        assert any(english not in {"", text} for text, language, english in texts if language not in {None, "en"})
        assert all(english == text for text, language, english in texts if language in {None, "en"})
    assert any("home!" in text and "who is there" in text for text, _, _ in writing[PERSON][1])
    assert writing[GREY][1] == []


def test_speech_is_told_in_english(small, speech):
    for result, heard in zip(small.results["asr"], speech, strict=True):
        if heard is None:
            assert (result.extras["text"], result.extras["language"]) == ("", None)
            continue
        language, share, text = heard
        assert (result.extras["text"], result.extras["language"]) == (text, language)
        assert result.extras["language_probability"] == pytest.approx(share, abs=1e-3)
    assert [heard is None for heard in speech] == [False, True, False]
    assert speech[CAR][2] != speech[PERSON][2]
    assert {speech[CAR][0], speech[PERSON][0]} != {"en"}
    assert len(speech[PERSON][2]) > 4
    # In the profile's own arithmetic, int8, the model can be had too and hears something.
    config = load_config("paper", [f"models_dir={json.dumps(str(small.models))}", "accelerator=cpu"])
    spec = resolve(config)["asr"]
    assert spec.settings.arithmetic == "int8_float32"
    [result] = spec.cls(spec.settings, Resources(models=spec.models)).extract([small.clips[CAR]])
    assert result.extras["text"]


def test_sentiments_are_those_of_the_texts(small, writing, speech):
    said = [heard[2] if heard else "" for heard in speech]
    for name, texts in (("asr", said), ("ocr", [english_of(found) for _, found in writing])):
        for result, text in zip(small.results[f"{name}_sentiment"], texts, strict=True):
            _, likely = plain_sentiment(small.models, text)
            found = [result.extras[kind] for kind in ("negative", "neutral", "positive")]
            assert found == ([None] * 3 if likely is None else pytest.approx(likely, rel=1e-4))


def test_captions_tell_the_frame_with_most_faces_and_lines(small, faces, writing):
    chosen = []
    for clip, result, (_, _, found), (lines, _) in zip(
        small.clips, small.results["caption"], faces, writing, strict=True
    ):
        counts = [len(frame) + sum(face[0] == number for face in found) for number, frame in enumerate(lines)]
        middle = (len(counts) - 1) / 2
        best = min(range(len(counts)), key=lambda number: (-counts[number], abs(number - middle), number))
        assert (result.extras["frame"], result.extras["time_s"]) == (best, clip.frame_times[best])
        assert result.extras["caption"] == plain_caption(small.models, clip.frames[best])
        chosen.append(best)
    assert chosen[GREY] == 1
    assert chosen[PERSON] not in {7, 8}
    assert len({result.extras["caption"] for result in small.results["caption"]} - {""}) == 3


@pytest.mark.parametrize("length", [16, 6])
def test_the_classifier_is_fed_as_published(small, plain, length):
    features = {
        name: published.FEATURES[name].model_copy(
            update={"width": width, "length": length if published.FEATURES[name].sequence else 1}
        )
        for name, width in WIDTHS.items()
    }
    assert {name: spec.space for name, spec in features.items()} == {name: small.specs[name].space for name in features}
    found = {name: [result.feature for result in small.results[name]] for name in features}
    examples = Examples(["car", "grey", "person"], found, np.full(3, -1))
    batch = to_tensors(examples, FusionSpec(features=features, d_model=8))
    lengths = set()
    for name, tensor in batch.items():
        low, high = MINIMUM_MAXIMUM[name]
        n = length if name in {"beats", "clip", "face_emotion"} else 1
        for given, rows in zip(tensor.numpy(), plain[name], strict=True):
            kept = rows if len(rows) <= n else rows[[round(at) for at in np.linspace(0, len(rows) - 1, n)]]
            expected = np.zeros((n, WIDTHS[name]))
            expected[: len(kept)] = (kept - low) / (high - low)
            assert given.shape == expected.shape
            assert np.abs(given - expected).max() < 1e-5
            lengths.add((len(rows) > n, len(rows) < n, len(rows) == 0))
    # Something was missing, something padded, and of few places more was there than is kept.
    assert {(False, True, True), (False, True, False)} <= lengths
    assert ((True, False, False) in lengths) == (length == 6)
