"""Texts of any language in English: which language they are in, and a translation where it is another one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vemoclap_batch.extractors.batching import Batches, autocast
from vemoclap_batch.extractors.pretrained import load_strictly

ENGLISH = "en"
#: What NLLB calls the languages that the published classifier knows (FLORES-200 codes).
NLLB_CODES = {
    "ar": "arb_Arab", "bg": "bul_Cyrl", "de": "deu_Latn", "el": "ell_Grek", "en": "eng_Latn", "es": "spa_Latn",
    "fr": "fra_Latn", "hi": "hin_Deva", "it": "ita_Latn", "ja": "jpn_Jpan", "nl": "nld_Latn", "pl": "pol_Latn",
    "pt": "por_Latn", "ru": "rus_Cyrl", "sw": "swh_Latn", "th": "tha_Thai", "tr": "tur_Latn", "ur": "urd_Arab",
    "vi": "vie_Latn", "zh": "zho_Hans",
}  # fmt: skip
#: Tokens of a text that the two models read at most; XLM-R has no more positions, and a frame's text is far shorter.
LONGEST = 512
#: A translation ends here at the latest, as NLLB's own configuration has it. It must not depend on a text's neighbours.
MOST_TOKENS = 200
#: Texts in one pass of each network.
CPU_BATCH, GPU_BATCH = 8, 64


@dataclass(frozen=True)
class Reading:
    """What is known of a text.

    Attributes:
        language: two letters; None when the classifier is not sure enough.
        probability: of the likeliest language.
        english: the text itself where it is English or its language is not known.
    """

    language: str | None
    probability: float
    english: str


class LanguageClassifier:
    """An XLM-R classifier of transformers that names the language of a text."""

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        """Load it.

        Raises:
            ValueError: its classes are not languages that can be translated, or weights are missing.
        """
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._device, self._precision = device, precision
        self.network = load_strictly(AutoModelForSequenceClassification, folder).to(device)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._labels = [self.network.config.id2label[at] for at in range(self.network.config.num_labels)]
        unknown = sorted(set(self._labels) - NLLB_CODES.keys())
        if unknown:
            raise ValueError(f"{folder} tells {', '.join(unknown[:5])}: no languages that NLLB is asked to translate")
        self._batches = Batches(CPU_BATCH if device == "cpu" else GPU_BATCH)

    def __call__(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest language of each text and its probability."""
        return _by_length(texts, lambda batch: self._batches.run(self._run, batch))

    def _run(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        import torch

        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
        ).to(self._device)
        with torch.inference_mode(), autocast(self._device, self._precision):
            shares = self.network(**tokens).logits.float().softmax(1).cpu()  # [n, languages]
        best = shares.max(1)
        return [
            (self._labels[at], share) for at, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]


class Nllb:
    """An NLLB model of transformers that turns a text into English; greedy, so that it says the same every time."""

    def __init__(self, folder: Path, device: str, precision: str) -> None:
        """Load it.

        Raises:
            ValueError: its tokenizer lacks a language, or weights are missing.
        """
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        self._device, self._precision = device, precision
        self.network = load_strictly(AutoModelForSeq2SeqLM, folder).to(device)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        codes = {code: self._tokenizer.convert_tokens_to_ids(code) for code in NLLB_CODES.values()}
        lacking = sorted(code for code, number in codes.items() if number == self._tokenizer.unk_token_id)
        if lacking:
            raise ValueError(f"{folder}: its tokenizer lacks {', '.join(lacking[:5])}")
        self._english = codes[NLLB_CODES[ENGLISH]]
        self._batches = Batches(CPU_BATCH if device == "cpu" else GPU_BATCH)

    def __call__(self, texts: Sequence[str], languages: Sequence[str]) -> list[str]:
        """Texts in English, each from its own language (two letters); those of a length go together."""
        tokens = [self._tokens(text, language) for text, language in zip(texts, languages, strict=True)]
        return _by_length(tokens, lambda batch: self._batches.run(self._run, batch))

    def _tokens(self, text: str, language: str) -> list[int]:
        """Token ids of a text, the first of them names its language."""
        self._tokenizer.src_lang = NLLB_CODES[language]
        return self._tokenizer(text, truncation=True, max_length=LONGEST)["input_ids"]

    def _run(self, texts: Sequence[list[int]]) -> list[str]:
        import torch
        from torch.nn.utils.rnn import pad_sequence

        ids = [torch.tensor(tokens) for tokens in texts]
        padded = pad_sequence(ids, batch_first=True, padding_value=self._tokenizer.pad_token_id)  # [n, tokens]
        mask = pad_sequence([torch.ones_like(tokens) for tokens in ids], batch_first=True)
        with torch.inference_mode(), autocast(self._device, self._precision):
            found = self.network.generate(
                padded.to(self._device), attention_mask=mask.to(self._device), forced_bos_token_id=self._english,
                max_new_tokens=MOST_TOKENS, num_beams=1, do_sample=False,
            )  # fmt: skip
        return [text.strip() for text in self._tokenizer.batch_decode(found, skip_special_tokens=True)]


class Translator:
    """Language and English of texts. The translation model is loaded when a text needs it for the first time."""

    def __init__(self, language: Path, translation: Path, sure: float, device: str, precision: str) -> None:
        """Load the classifier; ``sure`` is the probability from which a language counts as known."""
        self._classifier = LanguageClassifier(language, device, precision)
        self._folder, self._sure, self._device, self._precision = translation, sure, device, precision

    @cached_property
    def nllb(self) -> Nllb:
        """The translation model."""
        return Nllb(self._folder, self._device, self._precision)

    def __call__(self, texts: Sequence[str]) -> list[Reading]:
        """What is known of each text, in order; every different text is read once."""
        different = list(dict.fromkeys(texts))
        found = dict(zip(different, self._classifier(different), strict=True))
        english = {text: text for text in different}
        foreign = [text for text in different if found[text][1] > self._sure and found[text][0] != ENGLISH]
        if foreign:
            english |= zip(foreign, self.nllb(foreign, [found[text][0] for text in foreign]), strict=True)
        return [
            Reading(found[text][0] if found[text][1] > self._sure else None, found[text][1], english[text])
            for text in texts
        ]


def _by_length(texts: Sequence[Any], run: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """Run on texts (or their tokens) ordered by length, so that little is padding; results in the texts' own order."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    results: list[Any] = [None] * len(texts)
    for row, result in zip(order, run([texts[row] for row in order]), strict=True):
        results[row] = result
    return results
