"""The parts put together: one model of R runs."""
