"""vidfeat: decode videos once, run the frozen CLIP once, keep per-frame tokens in a Zarr store."""

__version__ = "0.1.0"
