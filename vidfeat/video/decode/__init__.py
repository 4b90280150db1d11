"""Video file -> Frames, by a decoder that can be trusted with that file: the only door to decord, PyAV and torchcodec.

probe(path)                 what the file holds, from its packets; nothing assumed from its name
choose_decoder(probe)       PyAV, unless another is preferred and known to be right about this file, and why
decode(path, policy=...)    the sampled frames with their presentation times, or a DecodeError with a reason
decode_all(path)            every frame, by one named decoder
doctor(), crosscheck()      which decoders work here; do two of them agree on these files
"""

from vidfeat.video.decode.crosscheck import Comparison, crosscheck, crosscheck_source
from vidfeat.video.decode.decoders import (
    DECODER_NAMES,
    Choice,
    DecoderStatus,
    available_decoders,
    choose_decoder,
    decoder_versions,
)
from vidfeat.video.decode.decoders import available_decoders as doctor
from vidfeat.video.decode.frames import Frames
from vidfeat.video.decode.probe import Probe, probe
from vidfeat.video.decode.read import decode, decode_all

__all__ = [
    "DECODER_NAMES",
    "Choice",
    "Comparison",
    "DecoderStatus",
    "Frames",
    "Probe",
    "available_decoders",
    "choose_decoder",
    "crosscheck",
    "crosscheck_source",
    "decode",
    "decode_all",
    "decoder_versions",
    "doctor",
    "probe",
]
