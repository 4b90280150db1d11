"""Pictures of single videos as data URLs: three frames side by side, decoded only when the file is at hand."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vidfeat.errors import VidfeatError
from vidfeat.id_matching import file_below

N_FRAMES = 3
HEIGHT = 72  # pixels of a frame on the page


class VideoFolder:
    """Finds a store's videos on this machine and makes their pictures, each once.

    A store does not say where its videos are. Without a folder given they are looked for where `vidfeat extract` and
    the quickstart leave them: beside the store, or in a folder of the store's name below `videos/` next to the stores'.

    Args:
        store: the store's path.
        given: the folder that video ids are relative to; None to look for it.
    """

    def __init__(self, store: str | Path, given: Path | None = None) -> None:
        parent, name = Path(store).resolve().parent, Path(store).stem
        beside = [parent / name, parent, parent.parent / "videos" / name, parent.parent / name]
        self.candidates: Sequence[Path] = [given, given / name] if given is not None else beside
        self._made: dict[str, str | None] = {}

    def path_of(self, video_id: str) -> Path | None:
        """Where the video is, or None."""
        paths = (Path(file_below(folder, video_id)) for folder in self.candidates)
        return next((path for path in paths if path.is_file()), None)

    def picture(self, video_id: str) -> str | None:
        """A JPEG data URL of N_FRAMES frames of the video; None where the file is not here or cannot be decoded."""
        if video_id not in self._made:
            path = self.path_of(video_id)
            self._made[video_id] = _strip(path) if path is not None else None
        return self._made[video_id]


def _strip(path: Path) -> str | None:
    from PIL import Image

    from prompttune.data.video_files import few_frames

    try:
        frames = few_frames(path, N_FRAMES)
    except VidfeatError:
        return None
    width = max(1, round(HEIGHT * frames.shape[2] / frames.shape[1]))
    pictures = [np.asarray(Image.fromarray(frame).resize((width, HEIGHT))) for frame in frames]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(pictures, axis=1)).save(buffer, format="JPEG", quality=75)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
