"""Attacks in words: paraphrases of a caption, and the words nearest to a found embedding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from memfast.attacks.perturbations import PERTURBATIONS, vocabulary_of
from memfast.measuring.cases import Cases
from memfast.measuring.replication import Replication, replication
from memfast.measuring.similarity import Toolbox
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.noise import generator
from memfast.pipelines.schedule import Schedule

PARAPHRASES = ("drop", "swap", "add")
WHOLE_VOCABULARY = 5000  # up to so many tokens all of them are tried, else the lists' own words


def paraphrase(
    driver: Driver,
    cases: Cases,
    tools: Toolbox,
    others: Float[Tensor, "others 3 height width"],
    schedule: Schedule,
    *,
    kind: str,
    variants: int = 3,
    seed: int = 0,
) -> Replication:
    """Scores of images of changed captions, `variants` one-word changes of one kind a caption."""
    vocabulary = vocabulary_of(cases.texts)
    images = []
    for variant in range(variants):
        texts = [
            PERTURBATIONS[kind](case.text, vocabulary, 1, generator(f"{case.id}/{kind}", number))
            for case, number in ((case, seed * variants + variant) for case in cases.cases)
        ]
        made = driver.generate(driver.encode_all(texts), cases.ids, seed, schedule)
        images.append(made.float().cpu())
    return replication(tools, images, cases, others)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words and what the text encoder makes of each alone: unit vectors [words, width].

    first: the position of a caption's first word, after a beginning token or a template.
    """

    words: tuple[str, ...]
    vectors: Float[Tensor, "words features"]
    first: int

    @classmethod
    def of(cls, driver: Driver, texts: Sequence[str], chunk: int = 256) -> "Vocabulary":
        """Every token of the tokenizer where there are at most 5,000, else the captions' words."""
        tokenizer = driver.pipeline.tokenizer
        if len(tokenizer) <= WHOLE_VOCABULARY:
            special = set(tokenizer.all_special_ids)
            tokens = [tokenizer.decode([i]) for i in range(len(tokenizer)) if i not in special]
            words = tuple(dict.fromkeys(word.strip() for word in tokens if word.strip()))
        else:
            words = tuple(vocabulary_of(texts))
        parts = [words[start : start + chunk] for start in range(0, len(words), chunk)]
        one, other = tokens_of(driver.encode(["a", "b"]))
        first = int((one != other).any(1).nonzero()[0])
        vectors = torch.cat([tokens_of(driver.encode(part))[:, first] for part in parts])
        return cls(words, F.normalize(vectors.float(), dim=1), first)


def tokens_of(conditioning: Conditioning) -> Float[Tensor, "captions tokens features"]:
    """The first leaf that may be searched: the text's embeddings, a token each."""
    return conditioning.leaves[conditioning.searched[0]]


def nearest_words(
    vocabulary: Vocabulary,
    embeddings: Float[Tensor, "images tokens features"],
    lengths: Sequence[int],
) -> list[str]:
    """A caption for each embedding: at each of its first positions the nearest word by cosine.

    What comes before the first word is skipped. lengths: words a caption.
    """
    unit = F.normalize(embeddings[:, vocabulary.first :].float(), dim=2)
    nearest = (unit @ vocabulary.vectors.T).argmax(2).tolist()
    return [
        " ".join(vocabulary.words[index] for index in row[:length])
        for row, length in zip(nearest, lengths, strict=True)
    ]


def projected(
    driver: Driver,
    cases: Cases,
    found: Conditioning,
    vocabulary: Vocabulary,
    tools: Toolbox,
    others: Float[Tensor, "others 3 height width"],
    schedule: Schedule,
    seeds: Sequence[int],
) -> tuple[list[str], Replication]:
    """What the found embeddings read as, and the scores of the images of those words."""
    lengths = [len(case.text.split()) for case in cases.cases]
    texts = nearest_words(vocabulary, tokens_of(found), lengths)
    encoded = driver.encode_all(texts)
    images = [driver.generate(encoded, cases.ids, seed, schedule).float().cpu() for seed in seeds]
    return texts, replication(tools, images, cases, others)
