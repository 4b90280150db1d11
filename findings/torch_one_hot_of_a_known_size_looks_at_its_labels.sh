#!/usr/bin/env bash
# PyTorch 2.15.0: F.one_hot(labels, n) with n given, noted by make_fx. From real tensors on a CPU (tracing_mode "real", the
# default) it is refused: one_hot reads the smallest and largest label to check them, which is a value out of a traced tensor.
# With "fake" tensors the same call is a comparison with an arange and checks nothing; with "symbolic" ones it asserts on the device.
# Expected: n given, nothing of the result's shape depends on a label, and the three modes note the same operations.
# Seen: "real: RuntimeError", "fake: arange unsqueeze eq _to_copy", and "symbolic" with two _assert_async.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > look.py <<'PY'
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

for mode in ("real", "fake", "symbolic"):
    try:
        graph = make_fx(lambda labels: F.one_hot(labels, 3), tracing_mode=mode)(torch.tensor([0, 2, 1])).graph
        print(f"{mode}:", *(node.name for node in graph.nodes if node.op == "call_function"))
    except RuntimeError:
        print(f"{mode}: RuntimeError")
PY
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check "torch==2.15.0" "numpy==2.4.6"
seen=$(venv/bin/python look.py | tee /dev/stderr)
checks="ge all_1 _assert_async lt all_2 _assert_async_1"
[ "$seen" = "$(printf 'real: RuntimeError\nfake: arange unsqueeze eq _to_copy\nsymbolic: %s unsqueeze arange eq _to_copy' "$checks")" ]
