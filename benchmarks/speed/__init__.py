"""Speed of single parts, as ratios against their plain counterpart measured in the same run."""
