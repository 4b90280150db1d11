"""prompttune: train coupled prompts for CLIP on cached video features, in seconds."""

__version__ = "0.1.0"
