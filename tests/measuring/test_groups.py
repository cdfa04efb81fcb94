import torch
from hypothesis import given
from hypothesis import strategies as st

from memfast.measuring.groups import components, duplicate_groups, halves


def test_components_by_hand():
    assert components(6, [(4, 2), (2, 5), (0, 1)]) == [0, 0, 1, 2, 1, 1]


def test_nearly_equal_captions_share_a_group():
    texts = [
        "The Daily Show with Jon Stewart, season one",
        "the daily show with jon stewart season one",
        "a red heart on a blue background",
        "a red square on a blue background",
    ]
    assert duplicate_groups(texts) == [0, 0, 1, 2]


def test_words_that_most_captions_use_do_not_join_them():
    texts = [f"{noun} on a plain white studio background" for noun in ("cat", "dog", "cup", "key")]
    assert duplicate_groups(texts) == [0, 1, 2, 3]


def test_equal_images_join_different_captions():
    one = torch.rand(2, 3, 8, 8)
    other = torch.rand(1, 3, 8, 8)
    stacks = [one, other, one[1:] + 0.01, None]
    assert duplicate_groups(["red heart", "blue cup", "old key", "tall tree"], stacks) == [
        0,
        1,
        0,
        2,
    ]


@given(st.lists(st.integers(0, 7), max_size=40), st.integers(0, 3))
def test_halves_never_split_a_group(groups, seed):
    first, second = halves(groups, seed)
    assert sorted(first + second) == list(range(len(groups)))
    assert not {groups[i] for i in first} & {groups[i] for i in second}
    largest = max((groups.count(g) for g in groups), default=0)
    assert abs(len(first) - len(second)) <= largest


def test_halves_differ_between_seeds():
    assert len({tuple(halves(list(range(20)), seed)[0]) for seed in range(5)}) > 1
