"""A video file becomes a Clip: sampling, the decoders and the killable process they run in."""
