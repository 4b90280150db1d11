"""What Python users call: stores, estimators, trainings, classification."""
