"""Who trains and who tests: pure functions over tables of videos, and the files that pin their answer."""
