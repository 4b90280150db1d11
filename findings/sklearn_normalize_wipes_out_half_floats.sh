#!/usr/bin/env bash
# scikit-learn 1.9.1 with numpy 2.4.6: `normalize` (and `Normalizer`) keeps float16 and sums a row's squares in float16. A row
# of length 256 or more, each of its values far below float16's limit, overflows there and comes out as zeros; one of length
# 0.002 vanishes there and comes out as it went in. No warning: a pipeline of Normalizer and a linear probe fits, and
# answers one class for every video. cosine_similarity, which divides by the same lengths, goes to float64 first and is right.
# Expected: rows of length 1, or a word. Seen: lengths "float32: 1.00 1.00 1.00" and "float16: 0.00 1.00 0.00" for
# long, middling and tiny rows; "accuracy of the probe, float32: 1.00, float16: 0.33"; "cosine of a long row with itself: 1.00".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PY'
import sys
import warnings
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, normalize

warnings.simplefilter("error")
draw = np.random.default_rng(0)
rows = draw.standard_normal((1, 512)) * np.array([[20.0], [1.0], [0.0001]])  # lengths about 450, 23 and 0.002
labels = np.arange(60) % 3
videos = 14 * (draw.standard_normal((3, 512))[labels] + 0.5 * draw.standard_normal((60, 512)))

def lengths(dtype):
    return " ".join(f"{length:.2f}" for length in np.linalg.norm(normalize(rows.astype(dtype)).astype("float64"), axis=1))

def accuracy(dtype):
    probe = make_pipeline(Normalizer(), LogisticRegression()).fit(videos.astype(dtype), labels)
    return f"{probe.score(videos.astype(dtype), labels):.2f}"

long_row = rows[:1].astype("float16")
seen = [lengths("float32"), lengths("float16"), accuracy("float32"), accuracy("float16"), f"{cosine_similarity(long_row)[0, 0]:.2f}"]
print(
    "float32: {}\nfloat16: {}\naccuracy of the probe, float32: {}, float16: {}\ncosine of a long row with itself: {}".format(*seen)
)
sys.exit(seen != ["1.00 1.00 1.00", "0.00 1.00 0.00", "1.00", "0.33", "1.00"])
PY
