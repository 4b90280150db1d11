"""Pre-trains the small CLIP on the stream: symmetric contrastive loss, AdamW, warm-up - constant - linear decay.

The constant phase makes an early stop harmless: a run of fewer steps that resumes from a checkpoint taken in the
constant phase is the same run as one that was that short from the start.
"""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.world.clip_weights import WEIGHTS_PATH, OpenClip, build_clip, normalise_frames, save_compact
from benchmarks.world.stream import captioned_batch
from benchmarks.world.text_batches import CaptionTokenizer, encode_rows, trained_token_ids

_MAX_LOGIT_SCALE = math.log(100)
_LAST_CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class PretrainOptions:
    """What decides the weights, apart from the machine's arithmetic."""

    seed: int = 0
    steps: int = 2250
    learning_rate: float = 1e-3
    weight_decay: float = 0.1
    warmup_steps: int = 200
    decay_share: float = 0.2
    checkpoint_steps: int = 50

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of update `step`, counted from 0."""
        decay_start = round(self.steps * (1 - self.decay_share))
        warm = min(1.0, (step + 1) / self.warmup_steps)
        cold = min(1.0, (self.steps - step) / max(1, self.steps - decay_start))
        return self.learning_rate * warm * cold


class _Batches(Dataset):
    def __init__(self, options: PretrainOptions, start: int):
        self._options, self._start = options, start
        self._tokenize = CaptionTokenizer()

    def __len__(self) -> int:
        return max(0, self._options.steps - self._start)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, list[list[int]]]:
        batch = captioned_batch(self._options.seed, self._start + index)
        return torch.from_numpy(batch.frames), self._tokenize(batch.captions)


def pretrain(work_dir: Path, options: PretrainOptions, *, weights_path: Path = WEIGHTS_PATH) -> None:
    """Train for `options.steps` updates, resuming from `work_dir`, and write the compact weights.

    `work_dir` receives a checkpoint every `checkpoint_steps` and a `log.jsonl`.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    model = build_clip()
    # Only the tokens captions use are trained; a table of their rows alone spares AdamW 6 million idle parameters.
    width = model.token_embedding.embedding_dim
    model.token_embedding = nn.Embedding(len(trained_token_ids()), width)
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    optimizer = _optimizer(model, options)
    start = _resume(work_dir / _LAST_CHECKPOINT, model, optimizer)
    batches = DataLoader(_Batches(options, start), batch_size=None, shuffle=False, num_workers=1, prefetch_factor=4)
    began, log = time.monotonic(), (work_dir / "log.jsonl").open("a")
    with log:
        for step, (frames, rows) in enumerate(batches, start):
            figures = _update(model, optimizer, normalise_frames(frames), rows, options, step)
            if step % 10 == 0 or step + 1 == options.steps:
                record = {"step": step, "seconds": round(time.monotonic() - began, 1), **figures}
                print(json.dumps(record), file=log, flush=True)
            if (step + 1) % options.checkpoint_steps == 0:
                _save_checkpoint(work_dir / _LAST_CHECKPOINT, model, optimizer, step + 1)
    export(model, weights_path)


def export(model: OpenClip, weights_path: Path) -> None:
    """Write a trained `model`, whose embedding table holds the trained tokens alone, as compact weights.

    Matrices are stored in float16, which halves the file; gains, biases and the logit scale stay in float32.
    """
    ids = torch.tensor(trained_token_ids())
    state = dict(model.state_dict())
    rows = state["token_embedding.weight"]
    weight = torch.zeros(model.vocab_size, rows.shape[1])
    weight[ids] = rows
    state["token_embedding.weight"] = weight
    save_compact(weights_path, {key: v.to(torch.float16) if v.ndim >= 2 else v for key, v in state.items()}, ids)


def _optimizer(model: OpenClip, options: PretrainOptions) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves gains, biases, embeddings of positions and the logit scale alone."""
    decayed = [p for name, p in model.named_parameters() if p.ndim >= 2 and "positional" not in name]
    plain = [p for name, p in model.named_parameters() if p.ndim < 2 or "positional" in name]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True)


def _update(
    model: OpenClip,
    optimizer: torch.optim.Optimizer,
    pixels: torch.Tensor,
    rows: list[list[int]],
    options: PretrainOptions,
    step: int,
) -> dict[str, float]:
    rate = options.learning_rate_at(step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    image, text = F.normalize(model.encode_image(pixels), dim=-1), F.normalize(encode_rows(model, rows), dim=-1)
    logits = model.logit_scale.exp() * image @ text.T
    target = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0.0, _MAX_LOGIT_SCALE)
        matched = (logits.argmax(1) == target).float().mean()
    return {
        "loss": round(loss.item(), 4),
        "matched": round(matched.item(), 4),
        "logit_scale": round(model.logit_scale.exp().item(), 2),
        "learning_rate": rate,
    }


def _save_checkpoint(path: Path, model: OpenClip, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write to a temporary file and rename, so that a killed run leaves the previous checkpoint whole."""
    partial = path.with_suffix(".partial")
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
    partial.replace(path)


def _resume(path: Path, model: OpenClip, optimizer: torch.optim.Optimizer) -> int:
    """The step to go on from: 0 where there is no checkpoint."""
    if not path.exists():
        return 0
    checkpoint = torch.load(path, weights_only=True)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return checkpoint["step"]
