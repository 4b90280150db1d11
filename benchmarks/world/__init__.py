"""A small video world and a small CLIP that knows it: the data everything here can be tried on without a download."""
