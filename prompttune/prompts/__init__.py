"""Learned prompts as files: ours, those of other projects, and lists of them."""
