"""The records of an event file: a length, a checksum of that, the data, and a checksum of the data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from gc_hooks._typing import Array

HEAD, CHECKSUM = 8, 4
"""Bytes of the length, and of a checksum."""

PART = 128
"""Bytes of the parts of a long text whose checksums are computed side by side: half or double takes as long."""

LONG = 5_000
"""Bytes from which on that takes less time than to go through them one by one."""

CUT_OFF = "ends in the middle of a {}: the complete ones are shown."


def as_record(data: bytes) -> bytes:
    """Return some data as a record."""
    head = len(data).to_bytes(HEAD, "little")
    return b"".join((head, checksum(head), data, checksum(data)))


def intact_records(path: Path, troubles: list[str]) -> Iterator[bytes]:
    """Yield the records of an event file without the damaged ones; add a sentence for these to the troubles."""
    # TensorBoard's own reader stops at the first damaged record and does not say so.
    damaged = 0
    with path.open("rb") as file:
        while head := file.read(HEAD):
            check = file.read(CHECKSUM)
            length = int.from_bytes(head, "little")
            is_whole = len(check) == CHECKSUM
            if is_whole and checksum(head) != check:
                # Without the length nobody knows where the next record begins.
                is_first = file.tell() == HEAD + CHECKSUM
                trouble = "is not an event file." if is_first else "is damaged: what follows cannot be read."
                troubles.append(f"{path} {trouble}")
                break
            # The process was killed while it wrote; or the length is made up, and must not be asked of the memory.
            if not is_whole or length + CHECKSUM > os.fstat(file.fileno()).st_size - file.tell():
                troubles.append(f"{path} {CUT_OFF.format('record')}")
                break
            data, check = file.read(length), file.read(CHECKSUM)
            if checksum(data) == check:
                yield data
            else:
                damaged += 1
    if damaged:
        troubles.append(f"{path} is damaged: {damaged} of its records cannot be read.")


def checksum(data: bytes) -> bytes:
    """Return the four bytes that stand behind some data in a record: its CRC-32C, turned and moved on.

    >>> checksum(b"123456789").hex()
    'e5b08ac7'
    """
    crc = crc32c(data)
    return (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(CHECKSUM, "little")


def crc32c(data: bytes) -> int:
    """Return the cyclic redundancy check of some bytes, by Castagnoli's polynomial.

    TensorBoard's own goes through the bytes one by one, and takes 0.1 s for the check of a hundred parameters.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    table, words, shifts = _tables()
    state, rest = 0xFFFFFFFF, 0
    if len(data) >= LONG:
        rest = len(data) // PART * PART
        # What a part does to the state is a shift of the state, which is the same for all, xor what it does to zero.
        parts = np.zeros(rest // PART, dtype=np.uint32)
        for column in np.frombuffer(data, np.uint8, rest).reshape(-1, PART).T:
            parts = words[(parts ^ column) & 0xFF] ^ (parts >> 8)
        for part in parts.tolist():
            first, second, third, fourth = state.to_bytes(4, "little")
            state = shifts[0][first] ^ shifts[1][second] ^ shifts[2][third] ^ shifts[3][fourth] ^ part
    for byte in data[rest:]:
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state ^ 0xFFFFFFFF


@cache
def _tables() -> tuple[list[int], Array, list[list[int]]]:
    """Return what each byte makes of a state of zero, twice; and what PART zeros make of each byte of a state."""
    words = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        words = np.where(words & 1, words >> 1 ^ 0x82F63B78, words >> 1).astype(np.uint32)
    states = np.arange(256, dtype=np.uint32) << np.array([[0], [8], [16], [24]], dtype=np.uint32)
    for _ in range(PART):
        states = words[states & 0xFF] ^ (states >> 8)
    return words.tolist(), words, states.tolist()
