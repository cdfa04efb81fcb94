"""One prompt, and a set of them that is read again at each iteration."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from memfast.errors import InputError
from memfast.prompts.rejected import RejectedRows


@dataclass(frozen=True, slots=True)
class Prompt:
    """A caption and what its list says about it.

    id: the list's own, or the first 16 hex digits of the text's sha256: never the position.
    image: absolute path of its training image, a URL, or "embedded://ROW:FILE" for one that lies
    within a parquet or arrow file (`memfast.images.read_image` takes all but URLs).
    seed: where given, the row's noise is torch.Generator().manual_seed(seed) (see `noise_seed`).
    label: what the prompt is known to be, such as "VM" or
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
        """Id and text, each with its length before it, and the row's own seed, where it has one,
        after what is no length: what a set's digest is made of."""
        parts = (self.id.encode(), self.text.encode())
        own = b"" if self.seed is None else b"\xff" * 8 + self.seed.to_bytes(8, "little")
        return b"".join(len(part).to_bytes(8, "little") + part for part in parts) + own

    def noise_seed(self, seed: int, draw: int = 0) -> int:
        """What to seed a torch.Generator with for this row's noise number `draw`.

        The first noise of a row with a seed of its own is that seed. Every other is 63 bits of
        blake2b over the run's seed (the own seed where there is one) plus `draw`, and the id: it
        depends on nothing else, and without an own seed it is `memfast.pipelines.noise`'s.
        """
        if self.seed is not None and draw == 0:
            return self.seed
        first = seed if self.seed is None else self.seed
        digest = hashlib.blake2b(f"{first + draw}\0{self.id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1


class PromptSet:
    """Prompts that can be iterated over any number of times; nothing is kept in between.

    `source` opens a fresh iterator over prompts each time it is called. `notes`: how often what
    was passed over in rows that are kept; `rejected`: the rows that were left out, where they are
    counted; both are known after a whole iteration.
    """

    def __init__(
        self,
        source: Callable[[], Iterable[Prompt]],
        name: str = "prompts",
        notes: Mapping[str, int] | None = None,
    ) -> None:
        self._source = source
        self.name = name
        self.notes: Mapping[str, int] = notes if notes is not None else {}
        self.rejected: RejectedRows | None = None

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
        for place, item in enumerate(kept):
            if not is_utf8(item.text) or not is_utf8(item.id):
                raise InputError(f"{name}[{place}]: not UTF-8: {item.text[:40]!r}")
            if item.seed is not None and not 0 <= item.seed < 2**63:
                raise InputError(f"{name}[{place}]: the seed {item.seed} is outside [0, 2**63)")
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
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def is_utf8(text: str) -> bool:
    """Whether text can be written as UTF-8: it holds no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
