"""torchcodec: exact random access through the system's FFmpeg; when asked for by name and after a self-test."""

from __future__ import annotations

from vidfeat.video.decode.decoder import Decoder, Pictures
from vidfeat.video.decode.frames import Deadline


class Torchcodec(Decoder):
    """See `Decoder`; pictures come upright."""

    name, use = "torchcodec", "when asked for by name"

    def read_pictures(self, path: str, indices: list[int], *, deadline: Deadline) -> Pictures:
        """See `Decoder`."""
        from torchcodec.decoders import VideoDecoder

        decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        n_frames = len(decoder)
        if indices and max(indices) >= n_frames:
            return Pictures.none(n_frames)
        batch = decoder.get_frames_at(indices)
        return Pictures(batch.data.numpy(), batch.pts_seconds.double().numpy(), n_frames)
