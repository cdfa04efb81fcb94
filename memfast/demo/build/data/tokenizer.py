"""A small byte-level BPE tokenizer in CLIP's format, learned from the captions by count."""

from collections import Counter
from itertools import pairwise

from transformers import CLIPTokenizer

VOCABULARY = 1536
LENGTH = 24  # tokens of a caption, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"


def byte_letters() -> list[str]:
    """Returns the printable letter that stands for each byte, as in GPT-2 and CLIP."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in printable}
    for n, b in enumerate(b for b in range(256) if b not in letters):
        letters[b] = chr(256 + n)
    return [letters[b] for b in range(256)]


def learn_merges(captions: list[str], number: int) -> list[tuple[str, str]]:
    """Returns up to `number` merges, the most frequent pair first, ties in alphabetical order."""
    letters = byte_letters()
    words = Counter(word for text in captions for word in text.split())
    parts = {w: [letters[b] for b in w.encode()] for w in words}
    for symbols in parts.values():
        symbols[-1] += "</w>"
    merges: list[tuple[str, str]] = []
    while len(merges) < number:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in parts.items():
            for pair in pairwise(symbols):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for symbols in parts.values():
            for i in range(len(symbols) - 2, -1, -1):
                if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == best:
                    symbols[i : i + 2] = ["".join(best)]
    return merges


def build_tokenizer(captions: list[str]) -> CLIPTokenizer:
    """Returns a CLIPTokenizer of at most VOCABULARY tokens; equal for equal captions."""
    letters = byte_letters()
    merges = learn_merges(captions, VOCABULARY - 2 * len(letters) - 2)
    tokens = [*letters, *(x + "</w>" for x in letters), *map("".join, merges), START, END]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(
        vocab=vocabulary, merges=merges, model_max_length=LENGTH, pad_token=END, unk_token=END
    )
