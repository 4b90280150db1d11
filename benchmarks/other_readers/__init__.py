"""One store of ours, read by other projects' libraries: written once, read by whatever is installed."""
