"""From runs to a run folder, through any interruption."""
