"""Whole comparisons (methods x datasets x seeds), the embedded small world, and speed measurements."""
