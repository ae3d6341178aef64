"""The allocator of the paged cache, by itself."""

import random

import pytest

from phisight.engine.blocks import BlockPool
from phisight.engine.sequence import ImageSlots, Sequence


@pytest.mark.parametrize("contiguous", [False, True])
def test_random_use_loses_and_doubles_nothing(contiguous: bool) -> None:
    rng, pool = random.Random(1), BlockPool(30, contiguous=contiguous)
    held: list[list[int]] = []
    names = iter(range(10**6))
    for _ in range(3000):
        action = rng.randrange(5)
        if action == 0 and pool.num_free:
            held.append([pool.take()])
        elif action == 1 and held and pool.num_free:
            chosen = rng.choice(held)
            chosen.append(pool.take(chosen[-1]))
        elif action == 2 and held:
            pool.release(held.pop(rng.randrange(len(held))))
        elif action == 3 and held:
            pool.name(rng.choice(rng.choice(held)), b"%d" % (next(names) % 40))
        elif (block := pool.find(b"%d" % rng.randrange(40))) is not None:
            pool.share(block)
            held.append([block])
        pool.check(held)
    for blocks in held:
        pool.release(blocks)
    pool.check([])
    assert pool.num_free == 30


def test_all_held_is_said() -> None:
    pool = BlockPool(1)
    pool.take()
    with pytest.raises(IndexError, match="every block is held"):
        pool.take()


def test_what_was_held_last_stays_longest() -> None:
    pool = BlockPool(3)
    for name in (b"a", b"b", b"c"):
        block = pool.take()
        pool.name(block, name)
        pool.release([block])
    kept = pool.find(b"a")
    assert kept is not None
    pool.share(kept)
    pool.release([kept])
    pool.take()
    assert [pool.find(name) is not None for name in (b"a", b"b", b"c")] == [True, False, True]


def test_the_end_of_a_sequence_goes_before_its_beginning() -> None:
    pool = BlockPool(2)
    first, second = pool.take(), pool.take()
    pool.name(first, b"beginning")
    pool.name(second, b"end")
    pool.release([first, second])
    pool.take()
    assert (pool.find(b"beginning"), pool.find(b"end")) == (first, None)


def test_neighbours_grow_without_meeting() -> None:
    pool = BlockPool(64, contiguous=True)
    sequences = [[pool.take()] for _ in range(4)]
    for _ in range(11):
        for blocks in sequences:
            blocks.append(pool.take(blocks[-1]))
    for blocks in sequences:
        assert blocks == list(range(blocks[0], blocks[0] + 12))


def name_of(ids: list[int], images: list[ImageSlots], *, is_long: bool = False) -> bytes:
    sequence = Sequence(0, ids, images, 4)
    sequence.set_regime(is_long)
    return sequence.name(len(ids) // 4 - 1)


def test_equal_names_mean_equal_contents() -> None:
    cat, dog = (ImageSlots(key, tuple(range(8)), 1) for key in (b"cat", b"dog"))
    shown = [-1, -1, -2, -2, 7, 7, 7, 7]
    names = [
        name_of([1, 2, 3, 4], []),
        name_of([1, 2, 3, 5], []),
        name_of([9, 9, 9, 9, 1, 2, 3, 4], []),
        name_of([1, 2, 3, 4], [], is_long=True),
        name_of(shown, [cat, dog]),
        name_of(shown, [dog, cat]),
        name_of([-1, -2, -1, -2, 7, 7, 7, 7], [cat, dog]),
        name_of([-1, -1, -1, -1, 7, 7, 7, 7], [cat]),
        name_of([-1, -1, -1, -1, -1, -1, -1, -1], [cat]),
        name_of([5, 5, 5, 5, -1, -1, -1, -1], [ImageSlots(b"cat", tuple(range(4, 12)), 1)]),
    ]
    assert len(set(names)) == len(names)
    # A picture is the same whatever its number.
    second = name_of([-2, -2, -2, -2, 7, 7, 7, 7], [dog, cat])
    assert second == name_of([-1, -1, -1, -1, 7, 7, 7, 7], [cat])


def test_later_blocks_hang_on_earlier_ones() -> None:
    one, other = ([first, 2, 3, 4, 5, 6, 7, 8] for first in (1, 0))
    assert name_of(one, []) != name_of(other, [])
