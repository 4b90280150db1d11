#!/usr/bin/env bash
# open_clip 3.3.0, `image_transform` with `resize_mode="shortest"`: the interpolation that is asked for is used where the
# picture a model takes is square and dropped where it is not: bilinear and bicubic then give the same pixels (bicubic).
# With "squash" it is used for both. A preprocessing configuration is thus obeyed or not by the shape of the input size,
# with no message. Expected: other pixels for other interpolations everywhere. Seen:
# "shortest, square: differ", "shortest, not square: equal", "squash, not square: differ".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check open_clip_torch==3.3.0 torch==2.15.0 torchvision==0.29.2 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PY'
import sys
import numpy as np
import torch
from PIL import Image
from open_clip.transform import image_transform

picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))

def answer(mode, size):
    bilinear, bicubic = (
        image_transform(size, is_train=False, resize_mode=mode, interpolation=name)(picture) for name in ("bilinear", "bicubic")
    )
    return "equal" if torch.equal(bilinear, bicubic) else "differ"

seen = [answer("shortest", (96, 96)), answer("shortest", (96, 160)), answer("squash", (96, 160))]
print("shortest, square: {}\nshortest, not square: {}\nsquash, not square: {}".format(*seen))
sys.exit(seen != ["differ", "equal", "differ"])
PY
