"""What the project knows of hub repositories, and which files it takes of them."""

import re

import pytest

from vemoclap_batch.models.known import known, known_models, wanted


def test_everything_known_is_well_formed():
    for repo, fact in known_models().items():
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", repo)
        assert re.fullmatch(r"main|[0-9a-f]{40}", fact.revision), repo
        assert all(re.fullmatch(r"[0-9a-f]{64}", sha256) for sha256 in fact.sha256.values()), repo
        assert fact.licence, repo
        assert fact.role, repo
        assert (fact.bytes or 0) > 1_000_000, repo
    assert known("some/other").revision == "main"


@pytest.mark.parametrize(
    ("repo", "names", "taken"),
    [
        (
            "timm/vit_base_patch32_clip_224.openai",
            "config.json model.safetensors pytorch_model.bin open_clip_config.json open_clip_model.safetensors "
            "open_clip_pytorch_model.bin merges.txt vocab.json tokenizer.json README.md",
            "open_clip_config.json open_clip_model.safetensors",
        ),
        (
            "facebook/nllb-200-distilled-600M",
            "config.json generation_config.json pytorch_model.bin sentencepiece.bpe.model special_tokens_map.json "
            "tokenizer.json tokenizer_config.json README.md .gitattributes",
            "config.json generation_config.json pytorch_model.bin sentencepiece.bpe.model special_tokens_map.json "
            "tokenizer.json tokenizer_config.json",
        ),
        (
            "Systran/faster-whisper-large-v3",
            "config.json model.bin preprocessor_config.json tokenizer.json vocabulary.json README.md",
            "config.json model.bin preprocessor_config.json tokenizer.json vocabulary.json",
        ),
        (
            "trpakov/vit-face-expression",
            "config.json model.safetensors pytorch_model.bin preprocessor_config.json onnx/model.onnx onnx/config.json",
            "config.json model.safetensors preprocessor_config.json",
        ),
        (
            "cardiffnlp/twitter-roberta-base-sentiment-latest",
            "config.json merges.txt pytorch_model.bin tf_model.h5 special_tokens_map.json vocab.json",
            "config.json merges.txt pytorch_model.bin special_tokens_map.json vocab.json",
        ),
        ("some/detector", "model.pt model.onnx results.csv runs/a/best.pt", "model.pt results.csv"),
        (
            "some/ocr",
            "inference.pdiparams inference.yml inference.json",
            "inference.json inference.pdiparams inference.yml",
        ),
    ],
)
def test_what_a_model_needs_is_taken(repo, names, taken):
    assert wanted(names.split(), known(repo).files) == taken.split()


def test_a_model_whose_hashes_are_all_shipped_needs_no_yes():
    fact = known("Systran/faster-whisper-large-v3")
    names = ["config.json", "model.bin", "preprocessor_config.json", "tokenizer.json", "vocabulary.json"]
    assert set(wanted(names)) == set(fact.sha256)
