"""What trains: contexts, coupling, visual rows, heads, adapters."""
