"""Its presence puts tests/ on sys.path, so that every test can `import video_files`."""

import os

# pytest-xdist tells its workers that a line has 80 columns. Commands print as into a pipe unless a test says otherwise.
os.environ.pop("COLUMNS", None)
