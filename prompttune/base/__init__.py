"""What every room stands on: tensors in files, the run axis, threads and memory. Nothing here knows a prompt."""
