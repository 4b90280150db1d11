#!/usr/bin/env bash
# PyTorch 2.15.0: making a plain optimiser (SGD, no `foreach`, no compile) imports torch._dynamo, the front of the compiler,
# and so does recomputing activations (torch.utils.checkpoint, not reentrant): about 900 modules and 2 seconds of a
# process that compiles nothing, at its first step and not at `import torch`, where a profile of imports would show it.
# Expected: what compiles is imported by who compiles. Seen: "after import torch: no", "after an optimiser: yes",
# "after recomputation: yes".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cd "$folder"
answer() {
  venv/bin/python - <<PY
import sys
import torch
from torch.utils.checkpoint import checkpoint

weight = torch.nn.Parameter(torch.ones(3))
$1
print("yes" if "torch._dynamo" in sys.modules else "no")
PY
}
seen=(
  "after import torch: $(answer pass)"
  "after an optimiser: $(answer 'torch.optim.SGD([weight], lr=0.1, foreach=False)')"
  "after recomputation: $(answer 'checkpoint(torch.sin, weight, use_reentrant=False).sum().backward()')"
)
printf '%s\n' "${seen[@]}"
[ "${seen[*]}" = "after import torch: no after an optimiser: yes after recomputation: yes" ]
