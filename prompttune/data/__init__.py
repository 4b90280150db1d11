"""Store rows as tensors: features, tokens, frames, and the protocols that say which."""
