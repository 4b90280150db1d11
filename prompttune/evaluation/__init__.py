"""Predictions, what they amount to, and what a split hides."""
