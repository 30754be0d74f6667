"""An extractor that only has weights, for tests of where they come from."""

from __future__ import annotations

from vemoclap_batch.extractors.base import FRAMES, Extractor, ExtractorSettings


class WeightedSettings(ExtractorSettings):
    model: str
    detector: str | None = None


class Weighted(Extractor):
    name = "weighted"
    Settings = WeightedSettings
    inputs = (FRAMES,)

    @classmethod
    def references(cls, settings):
        return {name: value for name in ("model", "detector") if (value := getattr(settings, name))}

    def _extract(self, items):
        raise AssertionError("these weights are never loaded")


def profile(**extractors: dict[str, str]) -> str:
    """The text of a profile with one such extractor per argument."""
    lines = ["extractors:"]
    for name, settings in extractors.items():
        lines += [f"  {name}:", '    class: "tests.models.weights:Weighted"']
        lines += [f"    {setting}: {value!r}" for setting, value in settings.items()]
    return "\n".join(lines) + "\n"
