"""Features that other programs extracted -> a store that trains: found, labelled, checked, written."""
