"""Twelve things that people say, two of each emotion, in English and in languages that MiniLM does not know.

The file is one for ``jobs/evaluate_lite.py --text``: text, number of the label, language.
"""

from collections import defaultdict
from pathlib import Path

_DATA = Path(__file__).parents[1] / "data"
#: Language → its sentences, in the same order in each.
SENTENCES = defaultdict(list)
#: The emotion of each of them.
EMOTIONS = []

_labels = (_DATA / "sayings_labels.txt").read_text("utf-8").split()
for _line in (_DATA / "sayings.tsv").read_text("utf-8").splitlines():
    _text, _number, _language = _line.split("\t")
    SENTENCES[_language].append(_text)
    if _language == "en":
        EMOTIONS.append(_labels[int(_number)])
