"""Folders of transformers as people have them: image processors of old checkpoints, and no tokenizer at all."""

import json

import numpy as np
import pytest

from tests.extractors.tiny_models import ROBERTA_WIDTH, build, roberta_folder
from tests.extractors.tiny_text import language_folder, nllb_folder
from vemoclap_batch.extractors.base import Resources
from vemoclap_batch.extractors.pretrained import TextClassifier, load_image_processor, load_tokenizer
from vemoclap_batch.extractors.sentiment import Sentiment
from vemoclap_batch.extractors.translated_ocr import Translator

pytestmark = pytest.mark.numeric

#: What transformers 4.25 and older wrote beside a ViT and a BLIP, and their model types.
OLD = {
    "ViTFeatureExtractor": ("vit", {"size": 32}),
    "CLIPFeatureExtractor": ("clip", {"size": 32, "crop_size": 32, "do_center_crop": True}),
    "BeitFeatureExtractor": ("beit", {"size": 32, "do_center_crop": False}),
}


@pytest.mark.parametrize("backend", ["pil", "torchvision"])
@pytest.mark.parametrize("key", ["feature_extractor_type", "image_processor_type"])
@pytest.mark.parametrize("name", list(OLD))
def test_image_processors_of_old_checkpoints_load(tmp_path, backend, key, name):
    model, own = OLD[name]
    described = {"resample": 2, "image_mean": [0.5] * 3, "image_std": [0.25] * 3, **own}
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps({key: name, **described}))
    old = load_image_processor(tmp_path, backend)
    # Without a name, transformers goes by the kind of model.
    path.write_text(json.dumps(described))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model}))
    now = load_image_processor(tmp_path, backend)
    assert type(old) is type(now)
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    one, other = (np.asarray(processor(image, return_tensors="pt")["pixel_values"]) for processor in (old, now))
    assert one.shape[-2:] == (32, 32)
    np.testing.assert_array_equal(one, other)


def test_an_image_processor_that_nobody_knows_is_refused(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text('{"image_processor_type": "OwnFeatureExtractor"}')
    with pytest.raises(ValueError, match="image processor"):
        load_image_processor(tmp_path, "pil")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match=r"preprocessor_config\.json"):
        load_image_processor(tmp_path / "empty", "pil")


def without_tokenizer(folder):
    """The folder of a model whose tokenizer was not copied."""
    for path in folder.iterdir():
        if path.suffix == ".txt" or path.name.startswith(("tokenizer", "vocab", "sentencepiece")):
            path.unlink()
    return folder


def test_a_missing_tokenizer_is_named(tmp_path):
    said = r"has no tokenizer: expected tokenizer\.json or vocab\.json with merges\.txt or .* beside the weights$"
    sentiment = without_tokenizer(roberta_folder(tmp_path / "sentiment"))
    with pytest.raises(FileNotFoundError, match=rf"sentiment {said}"):
        build(Sentiment, sentiment, width=ROBERTA_WIDTH)
    language = without_tokenizer(language_folder(tmp_path / "language"))
    with pytest.raises(FileNotFoundError, match=rf"language {said}"):
        TextClassifier(language, "cpu", "float32")
    translation = without_tokenizer(nllb_folder(tmp_path / "translation"))
    known = {"language": language_folder(tmp_path / "known", likely="de"), "translation": translation}
    translator = Translator(Resources(models=known), 0.5, "float32")
    with pytest.raises(FileNotFoundError, match=rf"translation {said}"):
        translator(["ein Text"])


def test_a_byte_pair_vocabulary_needs_its_merges(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"vocab\.json with merges\.txt"):
        load_tokenizer(tmp_path)
