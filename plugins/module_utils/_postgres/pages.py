# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksums of PostgreSQL's data pages, many pages at once. PRIVATE to the collection.

The algorithm (PostgreSQL's storage/checksum_impl.h) runs 32 independent FNV-1a sums over the 32-bit words of a page. Here one
Python integer holds a 64-bit lane for each sum of each page, so that a handful of arithmetic operations on large integers does
the work for hundreds of pages; 64 bits, because the product with the 25-bit prime has 57.
"""

from __future__ import annotations

import functools
import re
import struct
import sys

SUPPORTED = sys.byteorder == "little"
"""Words of pages are in the host's byte order; only this one is implemented."""

RELATION = re.compile(r"(?:[1-9][0-9]*)(?:_(?:fsm|vm|init))?(?:\.(?P<segment>[1-9][0-9]*))?")
"""Name of a file whose pages have checksums: a relation's fork, or a segment of it."""

_PRIME = 16777619
_BASES = (
    0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
    0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
    0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
    0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
)  # fmt: skip
_PAIRS = len(_BASES) // 2
_GROUP = 256
"""Pages worked on at once: their lanes fit into the cache."""


def segment_of(name: str) -> int | None:
    """Which segment of its fork a file (name without directory) is; None when its pages have no checksums."""
    match = RELATION.fullmatch(name)
    return None if match is None else int(match["segment"] or 0)


def wrong_pages(data: bytes, first_block: int, page_size: int, start_lsn: int) -> list[int]:
    """Numbers (from 0 in ``data``) of pages whose checksum does not match; whole pages only.

    Not looked at, as in PostgreSQL's own base backup: pages that were never initialised, and pages written since ``start_lsn``
    (they may be torn; replay restores them from their full-page image).
    """
    wrong: list[int] = []
    pages = len(data) // page_size
    view = memoryview(data)[: pages * page_size].cast("Q")
    for first in range(0, pages, _GROUP):
        count = min(_GROUP, pages - first)
        words = view[first * page_size // 8 : (first + count) * page_size // 8]
        wrong += [first + number for number in _wrong_of_group(words, count, page_size // 8, first_block + first, start_lsn)]
    return wrong


def _wrong_of_group(words: memoryview, count: int, page_words: int, first_block: int, start_lsn: int) -> list[int]:
    positions = words[0::page_words].tolist()
    headers = words[1::page_words].tolist()
    wrong = []
    for number, total in enumerate(_sums(words, count, page_words)):
        header = headers[number]
        expected = (total ^ (first_block + number)) % 65535 + 1
        if header & 0xFFFF == expected or header >> 48 == 0:  # the upper 16 bits are pd_upper: 0 in a new page
            continue
        position = positions[number]
        if ((position & 0xFFFFFFFF) << 32 | position >> 32) < start_lsn:
            wrong.append(number)
    return wrong


@functools.lru_cache(maxsize=8)
def _constants(pages: int) -> tuple[int, int, int, int]:
    """Start values of the even and odd sums, the mask of the lower halves, and the mask that hides pd_checksum."""
    lane = b"\xff\xff\xff\xff\0\0\0\0"
    mask = int.from_bytes(lane * (_PAIRS * pages), "little")
    even = b"".join(struct.pack("<Q", base) * pages for base in _BASES[0::2])
    odd = b"".join(struct.pack("<Q", base) * pages for base in _BASES[1::2])
    # pd_checksum is the lower half of the third word, which is the even word of the second pair.
    keep = b"\xff" * (8 * pages) + b"\0\0\xff\xff\xff\xff\xff\xff" * pages + b"\xff" * (8 * pages * (_PAIRS - 2))
    return int.from_bytes(even, "little"), int.from_bytes(odd, "little"), mask, int.from_bytes(keep, "little")


def _sums(words: memoryview, pages: int, page_words: int) -> tuple[int, ...]:
    """The sum of each page before the block number is mixed in; ``words`` are the pages as 64-bit words."""
    even, odd, mask, keep = _constants(pages)
    for row in range(0, page_words, _PAIRS):
        data = int.from_bytes(b"".join([words[word::page_words].tobytes() for word in range(row, row + _PAIRS)]), "little")
        if row == 0:
            data &= keep
        even = (even ^ data) & mask
        even = even * _PRIME ^ even >> 17
        odd = (odd ^ data >> 32) & mask
        odd = odd * _PRIME ^ odd >> 17
    for _round in range(2):
        even &= mask
        even = even * _PRIME ^ even >> 17
        odd &= mask
        odd = odd * _PRIME ^ odd >> 17
    folded = (even ^ odd) & mask
    width = _PAIRS * pages * 64
    while width > pages * 64:
        width //= 2
        folded ^= folded >> width
        folded &= (1 << width) - 1
    return struct.unpack(f"<{pages}Q", folded.to_bytes(8 * pages, "little"))
