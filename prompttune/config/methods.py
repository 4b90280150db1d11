"""The methods: each a row of data over one training loop, the defaults of its release with their source.

A method is a set of values for the configuration's tables, nothing else: which context trains, what it is coupled with,
what follows the frame features, which loss terms, which optimiser. So any part of one method can be put into another by
one `--set`, and what a result was made with is in its resolved configuration alone. No torch here: `prompttune methods`
and `--help` stay quick. What a row says is `prompttune.config.method`; the rows lie in three files by what trains.
"""

from __future__ import annotations

from prompttune.config.method import Method
from prompttune.config.methods_adapters import ROWS as ADAPTERS
from prompttune.config.methods_text import ROWS as TEXT
from prompttune.config.methods_visual import ROWS as VISUAL

METHODS: dict[str, Method] = {method.name: method for method in (*TEXT, *ADAPTERS, *VISUAL)}

# Loss terms any method may weigh in its `losses` table, and where the class of each is. What a class takes is set in
# `loss_options`; anchors have a section of their own.
LOSS_TERMS = {
    "cross-entropy": "prompttune.losses.terms:CrossEntropy",
    "knowledge-guided": "prompttune.losses.terms:KnowledgeGuided",
    "zero-shot-consistency": "prompttune.losses.terms:ZeroShotConsistency",
    "text-l1": "prompttune.losses.terms:TextL1",
    "image-l1": "prompttune.losses.terms:ImageL1",
    "logit-kl": "prompttune.losses.terms:LogitKL",
}
