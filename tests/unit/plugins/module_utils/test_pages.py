# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""Page checksums: against a plain, slow rendering of the algorithm; pages of a real server are in the integration tests."""

from __future__ import annotations

import random
import struct

import pytest
from ansible_collections.fileforge.ops.plugins.module_utils._postgres import pages
from hypothesis import given, settings
from hypothesis import strategies as st

LSN = 0x1_0000_0000


def slow_checksum(page: bytes, block: int) -> int:
    """One page, one sum at a time."""
    words = list(struct.unpack(f"<{len(page) // 4}I", page))
    words[2] &= 0xFFFF0000
    sums = list(pages._BASES)
    for number, word in enumerate([*words, *([0] * 64)]):
        mixed = sums[number % 32] ^ word
        sums[number % 32] = (mixed * 16777619 & 0xFFFFFFFF) ^ (mixed >> 17)
    total = 0
    for value in sums:
        total ^= value
    return (total ^ block) % 65535 + 1


def page(seed: int, block: int, *, lsn: int = LSN - 1, size: int = 8192, upper: int = 4000) -> bytes:
    content = bytearray(random.Random(seed).randbytes(size))
    content[:16] = struct.pack("<IIHHHH", lsn >> 32, lsn & 0xFFFFFFFF, 0, 0, 24, upper)
    content[8:10] = struct.pack("<H", slow_checksum(bytes(content), block))
    return bytes(content)


@pytest.mark.parametrize("size", [1024, 8192, 32768])
@pytest.mark.parametrize("first_block", [0, 131072, 0xFFFFFF00])
def test_good_pages_are_good_and_each_bad_one_is_named(size, first_block):
    content = bytearray(b"".join(page(number, first_block + number, size=size) for number in range(20)))
    assert pages.wrong_pages(bytes(content), first_block, size, LSN) == []
    for number in (0, 7, 19):
        content[number * size + size - 1] ^= 0x80
    assert pages.wrong_pages(bytes(content), first_block, size, LSN) == [0, 7, 19]


@given(place=st.integers(16, 8191), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_any_flipped_bit_is_found(place, bit):
    content = bytearray(page(3, 5))
    content[place] ^= 1 << bit
    assert pages.wrong_pages(bytes(content), 5, 8192, LSN) == [0]


def test_more_pages_than_one_group():
    count = pages._GROUP + 3
    good = page(1, 9)
    content = b"".join(good for _number in range(count))  # the right checksum for block 9 only
    wrong = pages.wrong_pages(content, 9, 8192, LSN)
    assert wrong == list(range(1, count))


def test_a_page_of_another_block_is_wrong():
    assert pages.wrong_pages(page(1, 9), 10, 8192, LSN) == [0]


def test_new_pages_pages_written_since_and_partial_pages_are_not_judged():
    new = bytes(8192)
    recent = bytearray(page(1, 1, lsn=LSN))
    recent[5000] ^= 1
    partial = page(2, 2)[:4096]
    assert pages.wrong_pages(new + bytes(recent) + partial, 0, 8192, LSN) == []


def test_the_lsn_is_compared_as_a_whole():
    old = bytearray(page(1, 0, lsn=0x0_FFFF_FFFF))
    old[5000] ^= 1
    assert pages.wrong_pages(bytes(old), 0, 8192, 0x1_0000_0000) == [0]
    assert pages.wrong_pages(bytes(old), 0, 8192, 0x0_FFFF_FFFF) == []


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("16384", 0),
        ("16384.3", 3),
        ("1259_fsm", 0),
        ("1259_vm.2", 2),
        ("24576_init", 0),
        ("pg_control", None),
        ("PG_VERSION", None),
        ("pg_filenode.map", None),
        ("t3_16384", None),
        ("16384_other", None),
        ("16384.0", None),
        ("016384", None),
    ],
)
def test_files_with_checksums(name, segment):
    assert pages.segment_of(name) == segment
