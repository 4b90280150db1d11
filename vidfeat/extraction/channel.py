"""A bounded queue between two threads that a stop event breaks open on both sides."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")
# How soon a waiting thread notices that the others have stopped.
NOTICE_SECONDS = 0.1


class Stopped(Exception):
    """Another thread has failed or was interrupted; this one has nothing more to do."""


class Channel(Generic[Item]):
    """First in, first out, at most `capacity` items; `put` waits while it is full, `get` while it is empty."""

    def __init__(self, capacity: int, stop: threading.Event) -> None:
        self._capacity = capacity
        self._stop = stop
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()

    def put(self, item: Item) -> None:
        """Appends an item once there is room.

        Raises:
            Stopped: the stop event is set.
        """
        with self._changed:
            while len(self._items) >= self._capacity:
                self._wait()
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> Item:
        """The oldest item, once there is one.

        Raises:
            Stopped: the stop event is set.
        """
        with self._changed:
            while not self._items:
                self._wait()
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def _wait(self) -> None:
        if self._stop.is_set():
            raise Stopped
        self._changed.wait(NOTICE_SECONDS)
