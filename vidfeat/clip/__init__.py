"""Frozen CLIP models: where they come from and how they encode."""
