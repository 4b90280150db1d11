"""Its presence puts tests/ on sys.path, so that every test can `import video_files`; files with long tests go first."""

import os

import pytest

# pytest-xdist tells its workers that a line has 80 columns. Commands print as into a pipe unless a test says otherwise.
os.environ.pop("COLUMNS", None)


def pytest_configure(config: pytest.Config) -> None:
    """pytest-xdist hands out whole files, those with most tests first: the longest tests, few to a file, would be last,
    and one worker would go on alone. In the order below the last files are short."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a test that is marked `long` first; within files, and among those files, nothing moves."""
    with_long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in with_long)
