"""What the tests of decoding share."""

import sys

import pytest

from vemoclap_batch.media.clip import MediaError
from vemoclap_batch.media.decode import decode


@pytest.fixture(params=["pyav", "decord"])
def decoder(request):
    """Each reader of frames in turn."""
    if request.param == "decord" and sys.platform != "linux":
        pytest.skip("decord has no wheel here")
    return request.param


@pytest.fixture
def failure_of():
    """A function that decodes what cannot be decoded and returns the failure."""

    def decoded(address, **options):
        with pytest.raises(MediaError) as caught:
            decode(str(address), **options)
        return caught.value.failure

    return decoded
