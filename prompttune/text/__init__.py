"""Class names to class features, exactly and without work done twice."""
