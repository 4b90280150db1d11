"""PyAV: the default for every file; frames straight from their places where the packets allow it."""

from __future__ import annotations

import numpy as np

from vidfeat.video.decode import pick
from vidfeat.video.decode.decoder import Decoder, Pictures
from vidfeat.video.decode.failures import failure
from vidfeat.video.decode.frames import Deadline, Frames
from vidfeat.video.decode.probe import Probe
from vidfeat.video.sampling import SamplingPolicy, sample_indices


class PyAV(Decoder):
    """See `Decoder`. There are no doubts: damaged frames are noticed, what has no known place is decoded through."""

    name, use = "pyav", "the default, for every file"

    def version(self) -> str:
        """PyAV's, and that of the FFmpeg inside it: "pyav 18.1.0, libavcodec 62.28.102"."""
        import av

        return f"{self.name} {av.__version__}, libavcodec " + ".".join(map(str, av.library_versions["libavcodec"]))

    def read_pictures(self, path: str, indices: list[int], *, deadline: Deadline) -> Pictures:
        """See `Decoder`; decodes the file from its start to its end."""
        picked = pick.pick_through(path, set(indices), deadline=deadline)
        return _in_order(picked, indices) if picked.pictures.keys() >= set(indices) else Pictures.none(picked.n_frames)

    def refuse_damage(self, facts: Probe, indices: np.ndarray, *, deadline: Deadline) -> None:
        """Nothing, or the DecodeError that `read` raises for the frames at `indices`; no picture is converted."""
        wanted, keep = set(indices.tolist()), facts.has_wavefronts
        picked = pick.pick_directly(facts, wanted, deadline=deadline, keep=keep) if pick.is_direct(facts) else None
        if picked is None:
            kept = wanted if keep else set()
            picked = pick.pick_through(facts.path, kept, facts=facts, deadline=deadline)
            _check_complete(facts, picked)
        _check_rows(facts, picked, deadline=deadline)

    def read(self, facts: Probe, policy: SamplingPolicy, seed: int, *, deadline: Deadline) -> Frames:
        """See `Decoder`; as many frames as the file should have, none of them damaged."""
        n_frames = facts.n_packets
        indices = sample_indices(policy, n_source_frames=n_frames, fps=facts.fps, seed=seed)
        if pick.is_direct(facts):
            picked = pick.pick_directly(facts, set(indices.tolist()), deadline=deadline)
            if picked is not None:
                _check_rows(facts, picked, deadline=deadline)
                return self._frames(facts, indices, picked)
        for _ in range(2):
            picked = pick.pick_through(facts.path, set(indices.tolist()), facts=facts, deadline=deadline)
            _check_complete(facts, picked)
            if picked.n_frames == n_frames:
                _check_rows(facts, picked, deadline=deadline)
                return self._frames(facts, indices, picked)
            # Hidden frames (VP8), two frames in one packet (MPEG-4 in AVI), frames without their key frame: an honest
            # count, known only now.
            n_frames = picked.n_frames
            indices = sample_indices(policy, n_source_frames=n_frames, fps=facts.fps, seed=seed)
        raise failure("invalid_data", facts.path, "decoding it twice gave two different numbers of frames")

    def _frames(self, facts: Probe, indices: np.ndarray, picked: pick.Picked) -> Frames:
        pictures = _in_order(picked, indices.tolist())
        times, n_frames = pictures.pts_seconds, picked.n_frames
        return Frames(pictures.pixels, indices, times, n_frames, facts.fps, self.version())


def _in_order(picked: pick.Picked, indices: list[int]) -> Pictures:
    times = np.array([picked.pts_seconds[index] for index in indices], dtype=np.float64)
    return Pictures(np.stack([picked.pictures[index] for index in indices]), times, picked.n_frames)


def _check_rows(facts: Probe, picked: pick.Picked, *, deadline: Deadline) -> None:
    """Nothing, or DecodeError when the rows of HEVC's pictures do not end where the next ones begin.

    A damaged arithmetic code is read on as something else, and ends elsewhere: nothing but the rows' places tells.
    """
    if not facts.has_wavefronts:
        return
    wanted = set(picked.pictures)
    again = pick.pick_directly(facts, wanted, deadline=deadline, by_rows=True) if pick.is_direct(facts) else None
    if again is None:
        again = pick.pick_through(facts.path, wanted, facts=facts, deadline=deadline, by_rows=True)
    for index, picture in picked.pictures.items():
        other = again.pictures.get(index)
        if other is None or not np.array_equal(picture, other):
            at = picked.pts_seconds[index]
            raise failure("invalid_data", facts.path, f"the frame at {at:.2f} s is damaged (its rows are out of place)")


def _check_complete(facts: Probe, picked: pick.Picked) -> None:
    """Nothing, or DecodeError when the file should have given more frames."""
    if picked.n_frames == 0:
        raise failure("no_frames", facts.path, f"not one of its {facts.n_packets} packets gives a frame")
    expected = facts.n_frames_expected
    # Frames before the first one that decodes lean on a key frame that was cut away: absent from the video, not from
    # the file.
    if facts.has_pts:
        expected -= int(np.searchsorted(facts.pts_seconds, picked.first_pts_seconds - facts.tick_seconds / 2))
    # MPEG-4 part 2 in AVI packs two frames into one packet and leaves a placeholder: a frame or two less is no loss.
    slack = 2 if facts.completeness.kind == "riff" else 0
    if facts.n_frames_declared is not None and expected - picked.n_frames > slack:
        detail = f"{picked.n_frames}/{facts.n_frames_expected} frames"
        cut = facts.completeness.cut
        raise failure("truncated", facts.path, f"{detail}; {cut}" if cut else detail)
