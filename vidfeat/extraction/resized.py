"""Frames that come as they were decoded -> the encoder's pictures, made on its device (`--resize device`)."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from vidfeat.clip.resize import DeviceResize
from vidfeat.extraction.pipeline import PixelStream
from vidfeat.extraction.worker import PixelRows, PoolEvent, VideoTask


class ResizedStream:
    """The events of `pixels`, their parts of frames made into pictures.

    These come back to the host, to be cut into batches as ever: a picture is a fraction of its frame, and so a batch
    holds the same rows wherever they were made.
    """

    def __init__(self, pixels: PixelStream, device: torch.device) -> None:
        self._pixels = pixels
        self._resize = DeviceResize(device)

    def stream(self, tasks: Iterable[VideoTask], stop: threading.Event) -> Iterator[PoolEvent]:
        """The tasks' pictures and outcomes, in the order of the tasks.

        Raises:
            VidfeatError: pictures that are not those of Pillow; and what `pixels` raises.
        """
        for event in self._pixels.stream(tasks, stop):
            if isinstance(event, PixelRows) and event.framing is not None:
                pictures = self._resize.pictures(event.pixels, event.framing)
                event = replace(event, pixels=pictures, framing=None)
            yield event
