"""Steps of an epoch and learning rates, each a pure function of the configuration and the step.

| `optim.schedule` | rate at step s of epoch e                                                                     |
|------------------|-----------------------------------------------------------------------------------------------|
| `cosine`         | linear warm-up, then half a cosine to 0 over what is left; both move with every step          |
| `constant`       | linear warm-up, then `lr`                                                                     |
| `dassl`          | `warmup_lr` for whole epochs e < w, then lr (1 + cos(pi (e - w) / E)) / 2, e counted from 0   |
| `vifi`           | timm's, a micro-batch late: linear warm-up, then a cosine counted from step 0, floor lr / 100 |
"""

from __future__ import annotations

import math

from prompttune.config.sections import OptimConfig

VIFI_FLOOR = 0.01  # of `lr`


def steps_per_epoch(optim: OptimConfig, n_videos: int) -> int:
    """Steps in which an epoch sees its videos.

    With `drop_last` the videos that do not fill the last batch are left out of the epoch (a new order picks others in
    the next one), unless they are all there are.

    Source: KaiyangZhou/Dassl.pytorch dassl/data/data_manager.py, `build_data_loader`: `drop_last` where there are as
    many as a batch.
    """
    whole = n_videos // optim.batch_size
    return whole if optim.drop_last and whole else math.ceil(n_videos / optim.batch_size)


def learning_rate(optim: OptimConfig, step: int, *, n_steps: int, steps_per_epoch: int) -> float:
    """The learning rate of step `step` in [0, n_steps)."""
    if optim.schedule == "dassl":
        return _dassl(optim, step // steps_per_epoch)
    if optim.schedule == "vifi":
        return _vifi(optim, step, n_steps=n_steps, n_warmup=int(optim.warmup_epochs * steps_per_epoch))
    n_warmup = min(round(optim.warmup_epochs * steps_per_epoch), n_steps)
    if step < n_warmup:
        return optim.warmup_lr + (optim.lr - optim.warmup_lr) * step / n_warmup
    if optim.schedule == "constant":
        return optim.lr
    # Loshchilov & Hutter 2017: half a cosine that would reach 0 one step after the last.
    progress = (step - n_warmup) / max(n_steps - n_warmup, 1)
    return optim.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def _dassl(optim: OptimConfig, epoch: int) -> float:
    """The CoOp line's. T_max is all E epochs though the cosine starts after the warm-up: it never comes to its end.

    Source: KaiyangZhou/Dassl.pytorch dassl/optim/lr_scheduler.py, ConstantWarmupScheduler around torch's
    CosineAnnealingLR, moved once an epoch. Theirs starts in the epoch after `warmup_epochs` are over, at `lr` itself.
    """
    n_warmup = math.ceil(optim.warmup_epochs)
    if epoch < n_warmup:
        return optim.warmup_lr
    return optim.lr * 0.5 * (1.0 + math.cos(math.pi * (epoch - n_warmup) / optim.epochs))


def _vifi(optim: OptimConfig, step: int, *, n_steps: int, n_warmup: int) -> float:
    """ViFi-CLIP's. The cosine has been falling since step 0 when the warm-up ends, so that the rate drops there.

    Source: muzairkhattak/ViFi-CLIP utils/optimizer.py `build_scheduler`, timm's CosineLRScheduler without
    `warmup_prefix`; main.py moves it after an update to the number of the micro-batch it came with, so that it is late
    by one micro-batch: a step, or a part of it where gradients are accumulated.
    """
    at = step - 1 / optim.accumulate
    if n_warmup and at < n_warmup:
        return optim.warmup_lr + (optim.lr - optim.warmup_lr) * max(at, 0) / n_warmup
    if at < 0:
        return optim.lr
    floor = VIFI_FLOOR * optim.lr
    return floor + (optim.lr - floor) * 0.5 * (1.0 + math.cos(math.pi * at / n_steps))
