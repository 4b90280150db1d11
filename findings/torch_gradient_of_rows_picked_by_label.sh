#!/usr/bin/env bash
# PyTorch 2.15.0 on a CPU, bfloat16 weights (a row a class) picked by 5000 labels: the gradient of `weights[labels]` and of
# `F.embedding` adds up in bfloat16 and stands still at 256; that of `index_select` and `gather`, which pick the same rows,
# adds up in float32 and is 4992, the bfloat16 next to 5000. Forward the four are equal, bit for bit. Float16: 2048 and 5000.
# Expected: one gradient (a rounding apart) for four spellings of one function; a frequent class otherwise learns at a
# twentieth of its rate, by the way its row is looked up. Seen: "weights[labels]: 256", "F.embedding: 256",
# "index_select: 4992", "gather: 4992".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PY'
import sys
import torch
from torch.nn import functional as F

labels = torch.zeros(5000, dtype=torch.long)  # the class that all 5000 videos have, of 4
picks = {
    "weights[labels]": lambda weights: weights[labels],
    "F.embedding": lambda weights: F.embedding(labels, weights),
    "index_select": lambda weights: weights.index_select(0, labels),
    "gather": lambda weights: weights.gather(0, labels[:, None].expand(-1, 8)),
}
torch.manual_seed(0)
start = torch.randn(4, 8).bfloat16()
seen = []
for name, pick in picks.items():
    weights = start.clone().requires_grad_()
    picked = pick(weights)
    assert torch.equal(picked, start[labels])
    picked.sum().backward()
    seen.append(int(weights.grad[0, 0]))
    print(f"{name}: {seen[-1]}")
sys.exit(seen != [256, 256, 4992, 4992])
PY
