"""Keys and values that no prompt changes: SOS, and names that stand in front of the context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vidfeat.backbone import PromptableText


@torch.no_grad()
def constant_rows(tower: PromptableText, names: Sequence[tuple[int, ...]], *, sot_id: int) -> list[Tensor]:
    """Per block, what enters it at the rows `names`, `[n_names W]`: each names its row by the token ids from SOS to it.

    Computed once, in the tower's dtype, by the plain causal blocks on the longest names.
    """
    prefixes = {name[:end] for name in names for end in range(len(name))}
    longest = [name for name in names if name not in prefixes]
    row_of = {name[:end]: (row, end) for row, name in enumerate(longest) for end in range(len(name) + 1)}
    device = tower.positional_embedding.device
    length = 1 + max(len(name) for name in longest)
    # What stands behind a name's last token never acts on it, so any id may fill up the rows.
    ids = torch.tensor([[sot_id, *name] + [sot_id] * (length - 1 - len(name)) for name in longest], device=device)
    index = tuple(torch.tensor([row_of[name] for name in names], device=device).unbind(1))
    x, visible = tower.embed(ids) + tower.positional_embedding[:length], tower.visible(ids)
    entering = []
    for block in tower.blocks:
        entering.append(x[index])
        x = block(x, is_causal=visible is None, visible=visible)
    return entering
