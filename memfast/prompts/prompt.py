"""One prompt, and a set of them that is read again at each iteration."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Prompt:
    """A caption and what its list says about it.

    id: the list's own, or the first 16 hex digits of the text's sha256: never the position.
    image: absolute path (or URL, untouched) of its training image.
    seed: a noise seed of its own. label: what the prompt is known to be, such as "VM" or
    "reference". group: its near-duplicate cluster, never to be split between two sets.
    line: where it stands in its file, from 1 (a row number in binary formats); 0 if from Python.
    """

    id: str
    text: str
    image: str | None = None
    seed: int | None = None
    label: str | None = None
    line: int = 0
    group: str | None = None

    @property
    def identity(self) -> bytes:
        """Id and text, each with its length before it: what a set's digest is made of."""
        parts = (self.id.encode(), self.text.encode())
        return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that holds no usable prompt: where it stands and why it was left out."""

    line: int
    reason: str
    start: str


class PromptSet:
    """Prompts that can be iterated over any number of times; nothing is kept in between.

    `source` opens a fresh iterator over prompts each time it is called.
    """

    def __init__(self, source: Callable[[], Iterable[Prompt]], name: str = "prompts") -> None:
        self._source = source
        self.name = name

    @classmethod
    def of(cls, prompts: "Iterable[str | Prompt]", name: str = "prompts") -> "PromptSet":
        """A set of strings or Prompts; a PromptSet is returned as it is."""
        if isinstance(prompts, PromptSet):
            return prompts
        if isinstance(prompts, str):
            raise TypeError(f"prompts: needs a list of strings, got the single string {prompts!r}")
        kept = [make_prompt(item) if isinstance(item, str) else item for item in prompts]
        wrong = next((item for item in kept if not isinstance(item, Prompt)), None)
        if wrong is not None:
            raise TypeError(f"prompts: needs strings or Prompts, got {wrong!r}")
        return cls(lambda: kept, name)

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self._source())

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"PromptSet({self.name!r})"

    @cached_property
    def _length(self) -> int:
        return sum(1 for _ in self)

    @property
    def texts(self) -> list[str]:
        """The captions, in order."""
        return [prompt.text for prompt in self]

    @property
    def ids(self) -> list[str]:
        """The ids, in order."""
        return [prompt.id for prompt in self]

    @cached_property
    def digest(self) -> str:
        """sha256 over ids and texts, in order: equal for equal sets whatever file held them."""
        total = hashlib.sha256()
        for prompt in self:
            total.update(prompt.identity)
        return total.hexdigest()


def make_prompt(
    text: str,
    *,
    id: str | None = None,
    image: str | None = None,
    seed: int | None = None,
    label: str | None = None,
    line: int = 0,
    group: str | None = None,
) -> Prompt:
    """A Prompt whose id, when none is given, follows from its text alone."""
    return Prompt(id or text_id(text), text, image, seed, label, line, group)


def text_id(text: str) -> str:
    """The first 16 hex digits of the text's sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
