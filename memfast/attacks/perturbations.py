"""Ways to change a caption's words: triggers that must not bring an image back, and Somepalli's.

Each takes a caption, a vocabulary, how many changes, and a generator, and returns a caption.
"""

from collections.abc import Callable, Mapping, Sequence

import torch

Perturb = Callable[[str, Sequence[str], int, torch.Generator], str]


def _pick(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))


def _insert(words: list[str], word: str, generator: torch.Generator) -> None:
    words.insert(_pick(len(words) + 1, generator), word)


def drop(text: str, _: Sequence[str], count: int, generator: torch.Generator) -> str:
    """Leave out words; one always stays."""
    words = text.split()
    for _unused in range(min(count, len(words) - 1)):
        del words[_pick(len(words), generator)]
    return " ".join(words)


def swap(text: str, _: Sequence[str], count: int, generator: torch.Generator) -> str:
    """Exchange neighbouring words."""
    words = text.split()
    for _unused in range(count if len(words) > 1 else 0):
        at = _pick(len(words) - 1, generator)
        words[at], words[at + 1] = words[at + 1], words[at]
    return " ".join(words)


def add(text: str, vocabulary: Sequence[str], count: int, generator: torch.Generator) -> str:
    """Insert random words of the vocabulary (Somepalli's random token addition)."""
    words = text.split()
    for _unused in range(count):
        _insert(words, vocabulary[_pick(len(vocabulary), generator)], generator)
    return " ".join(words)


def replace(text: str, vocabulary: Sequence[str], count: int, generator: torch.Generator) -> str:
    """Put random words of the vocabulary in place of words."""
    words = text.split()
    for _unused in range(count if words else 0):
        words[_pick(len(words), generator)] = vocabulary[_pick(len(vocabulary), generator)]
    return " ".join(words)


def repeat(text: str, _: Sequence[str], count: int, generator: torch.Generator) -> str:
    """Repeat words of the caption at random places (Somepalli's caption word repetition)."""
    words = text.split()
    for _unused in range(count if words else 0):
        _insert(words, words[_pick(len(words), generator)], generator)
    return " ".join(words)


def number(text: str, _: Sequence[str], count: int, generator: torch.Generator) -> str:
    """Insert random numbers below a million (Somepalli's random numbers addition)."""
    words = text.split()
    for _unused in range(count):
        _insert(words, str(_pick(1_000_000, generator)), generator)
    return " ".join(words)


PERTURBATIONS: Mapping[str, Perturb] = {
    "drop": drop,
    "swap": swap,
    "add": add,
    "replace": replace,
    "repeat": repeat,
    "number": number,
}


def vocabulary_of(texts: Sequence[str]) -> list[str]:
    """The distinct words of captions, in order of first use."""
    return list(dict.fromkeys(word for text in texts for word in text.split()))
