"""What is done with stores beside extraction: anchor sets, HDF5."""
