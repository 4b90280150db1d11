#!/usr/bin/env bash
# PyTorch 2.6.0: what a custom autograd function saved is held by its result, not by the node that has `saved_tensors`. Who
# keeps `result.grad_fn` and drops the result is told, at the first look, of a second backward pass through a graph that
# never had a first. PyTorch 2.15.0 gives the tensors.
# Expected: a node that can be asked for its saved tensors keeps them, in either. Seen in 2.6.0: "held: 1 tensor(s)", then
# "dropped: RuntimeError: Trying to backward through the graph a second time"; in 2.15.0: "dropped: 1 tensor(s)".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > look.py <<'PY'
import torch


class Keep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchor, x):
        ctx.save_for_backward(x)
        return torch.empty(0)

    @staticmethod
    def backward(ctx, gradient):
        return None, None


def saved(node):
    try:
        return f"{len(node.saved_tensors)} tensor(s)"
    except RuntimeError as error:
        return "RuntimeError: " + str(error)[:50]


result = Keep.apply(torch.empty(0, requires_grad=True), torch.ones(3))
node = result.grad_fn
print("held:", saved(node))
del result
print("dropped:", saved(node))
PY
seen() {
  rm -rf venv && python3 -m venv venv
  venv/bin/pip install --quiet --disable-pip-version-check "torch==$1" "numpy==2.4.6"
  venv/bin/python look.py | tee /dev/stderr
}
error="RuntimeError: Trying to backward through the graph a second time"
[ "$(seen 2.6.0)" = "$(printf 'held: 1 tensor(s)\ndropped: %s' "$error")" ]
[ "$(seen 2.15.0)" = "$(printf 'held: 1 tensor(s)\ndropped: 1 tensor(s)')" ]
