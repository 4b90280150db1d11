"""Pixel rows from one process to another: through a ring of shared memory, and through a pipe."""

from __future__ import annotations

import time
from typing import Any

import numpy as np


def _ring_writer(connection: Any, memory: Any, layout: Any, n_messages: int) -> None:
    slots = layout.over(memory)
    rows = np.zeros(slots.shape[1:], slots.dtype)
    for number in range(n_messages):
        if number >= layout.n_slots:
            connection.recv()
        slots[number % layout.n_slots] = rows
        connection.send(number % layout.n_slots)


def _pipe_writer(connection: Any, shape: tuple[int, ...], n_messages: int) -> None:
    from vidfeat.extraction.recipe import ROW_DTYPE

    rows = np.zeros(shape, ROW_DTYPE)
    for _ in range(n_messages):
        connection.send_bytes(rows.reshape(-1))  # of several axes of bytes it sends another length than content


def transfer_rates(n_messages: int = 300) -> dict[str, float]:
    """Bytes/s of pixel rows [8 3 224 224] as they cross, from a process into a batch: through a ring, and a pipe."""
    import ctypes
    import multiprocessing

    from vidfeat.extraction.recipe import ROW_DTYPE, SLOT_ROWS
    from vidfeat.extraction.ring import RingLayout

    context = multiprocessing.get_context("spawn")
    layout = RingLayout(n_slots=4, slot_rows=SLOT_ROWS, row_shape=(3, 224, 224), dtype=ROW_DTYPE)
    batch = np.empty(layout.shape[1:], ROW_DTYPE)
    rates = {}
    for name in ("ring", "pipe"):
        here, there = context.Pipe()
        memory = context.RawArray(ctypes.c_uint8, layout.n_bytes)
        target, arguments = _ring_writer, (there, memory, layout, n_messages)
        if name == "pipe":
            target, arguments = _pipe_writer, (there, batch.shape, n_messages)  # type: ignore[assignment]
        process = context.Process(target=target, args=arguments)
        process.start()
        there.close()
        slots, start = layout.over(memory), 0.0
        for number in range(n_messages):
            if name == "ring":
                slot = here.recv()
                batch[:] = slots[slot]
                if number < n_messages - layout.n_slots:
                    here.send(slot)
            else:
                here.recv_bytes_into(batch.reshape(-1).view(np.uint8).data)
            start = start or time.monotonic()
        rates[name] = (n_messages - 1) * batch.nbytes / (time.monotonic() - start)
        process.join()
    return rates
