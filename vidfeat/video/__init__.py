"""Video files: which, which frames, decoded, and made ready for an encoder."""
