"""What a training is told: sections of settings, methods as data, runs."""
