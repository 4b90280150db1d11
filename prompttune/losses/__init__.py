"""What a training minimises, and what holds it in place."""
