"""Its presence puts tests/ on sys.path, so that every test can `import video_files`."""
