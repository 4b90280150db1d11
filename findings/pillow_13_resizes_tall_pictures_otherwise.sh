#!/usr/bin/env bash
# pillow 13.0.0 and 12.1.0, `Image.resize((224, 224), BICUBIC)` of a 241 x 321 RGB picture of noise: other pixels, by up to
# 19 of 255, for the same call. 12.1.0 always shrinks the width first; 13.0.0 the height first where it shrinks more than
# the width, and as bytes are cut off at 0 and 255 between the two passes, the order shows. A picture whose two sides
# shrink alike is the same. Expected: equal pixels, or a word; features of models that squash their input (SigLIP) now
# depend on the version of Pillow they were extracted with. Seen: "12.1.0: width first", "13.0.0: height first".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
for version in 12.1.0 13.0.0; do
  "${PYTHON:-python3}" -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "pillow==$version"
  (cd "$folder" && "$version/bin/python") <<'PY' | tee -a "$folder/seen"
import random
import PIL
from PIL import Image

draw, cubic = random.Random(0), Image.Resampling.BICUBIC

def order(width, height, size):
    """Which axis is resized first: that is what two calls, an axis each, give."""
    picture = Image.frombytes("RGB", (width, height), draw.randbytes(3 * width * height))
    at_once = picture.resize(size, cubic).tobytes()
    passes = {"width": (size[0], height), "height": (width, size[1])}
    return " and ".join(name for name, first in passes.items() if picture.resize(first, cubic).resize(size, cubic).tobytes() == at_once)

print(f"{PIL.__version__}: {order(241, 321, (224, 224))} first; both sides alike: {order(240, 320, (168, 224))} first")
PY
done
printf '%s\n' "12.1.0: width first; both sides alike: width first" "13.0.0: height first; both sides alike: width first" | diff - "$folder/seen" > "$folder/difference" || { cat "$folder/difference"; exit 1; }
