from collections import Counter

import pytest
import torch

from memfast.attacks.perturbations import PERTURBATIONS, vocabulary_of

TEXT = "a red cat sits on the mat"
WORDS = ["alpha", "beta"]


def perturb(kind, text=TEXT, count=2, seed=0):
    return PERTURBATIONS[kind](text, WORDS, count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_a_perturbation_depends_on_its_generator_alone(kind):
    assert perturb(kind) == perturb(kind)
    assert len({perturb(kind, seed=seed) for seed in range(8)}) > 1


@pytest.mark.parametrize(
    ("kind", "change"),
    [("drop", -2), ("swap", 0), ("add", 2), ("replace", 0), ("repeat", 2), ("number", 2)],
)
def test_how_many_words_are_left(kind, change):
    assert len(perturb(kind).split()) == 7 + change


def test_where_words_come_from():
    own = Counter(TEXT.split())
    assert not Counter(perturb("drop").split()) - own
    assert Counter(perturb("swap").split()) == own
    assert set(Counter(perturb("add").split()) - own) <= set(WORDS)
    assert set(Counter(perturb("repeat").split()) - own) <= set(own)
    assert all(word.isdecimal() for word in Counter(perturb("number").split()) - own)


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_one_word_survives(kind):
    assert perturb(kind, "cat", count=5)


def test_vocabulary_is_in_order_and_distinct():
    assert vocabulary_of(["a b a", "c b"]) == ["a", "b", "c"]
