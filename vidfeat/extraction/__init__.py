"""Videos to a store: planned, run by processes, committed unit by unit."""
