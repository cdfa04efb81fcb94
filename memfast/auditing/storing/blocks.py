"""Blocks on disk: the unit of work, of resumption and of determinism."""

import json
import logging
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from memfast_kernels import Moments

from memfast.auditing.looking.worker import Block
from memfast.auditing.storing.index import Index
from memfast.errors import InputError, reading
from memfast.files import load_tensors, read_header, save_tensors
from memfast.prompts import Prompt, PromptSet

KIND, FORMAT = "audit block", 2
_FIELDS = ("count", "mean", "m2", "max_abs", "nonzero")
_log = logging.getLogger("memfast")


class Blocks:
    """The blocks of one audit, in its folder; `run` identifies the audit and its calibration."""

    def __init__(self, folder: Path, run: str, texts: int, block_size: int) -> None:
        self.folder, self.run, self.total, self.block_size = folder, run, texts, block_size
        self.count = -(-texts // block_size)

    def path(self, number: int) -> Path:
        return self.folder / f"block-{number:06d}.safetensors"

    def size(self, number: int) -> int:
        """Texts in the block."""
        return min(self.block_size, self.total - number * self.block_size)

    def prompts(
        self, prompts: PromptSet, index: Index, wanted: Container[int]
    ) -> Iterator[tuple[int, list[Prompt]]]:
        """(number, prompts) of the wanted blocks, in order; the others are only read past."""
        firsts = index.firsts(prompts)
        for number in range(self.count):
            block = list(islice(firsts, self.block_size))
            if number in wanted:
                yield number, block

    def write(self, number: int, block: Block) -> None:
        """Write a block, whole or not at all. Raises InputError where the disk refuses."""
        tensors = {"scores": block.scores, "truncated": block.truncated}
        for site, moments in block.moments.items():
            tensors |= {f"moments/{site}/{field}": getattr(moments, field) for field in _FIELDS}
        header = {"kind": KIND, "format": FORMAT, "run": self.run, "number": number}
        header |= {"made_on": block.made_on}
        try:
            save_tensors(self.path(number), tensors, header)
        except (InputError, OSError) as error:
            raise InputError(
                f"{error}; no finished block is lost: the same command goes on from here"
            ) from error

    def read(self, number: int) -> Block:
        """A block. Raises InputError when it is missing, damaged or of another run."""
        path = self.path(number)
        tensors, header = load_tensors(path, KIND, FORMAT, run=self.run)
        with reading(path):
            if header["number"] != number:
                raise InputError(f"{path}: is block {header['number']}")
            sites: dict[str, dict] = {}
            for name, tensor in tensors.items():
                if name.startswith("moments/"):
                    _, site, field = name.split("/")
                    sites.setdefault(site, {})[field] = tensor
            moments = {site: Moments(**found) for site, found in sorted(sites.items())}
            block = Block(tensors["scores"], tensors["truncated"], moments, header["made_on"])
            if {len(block.scores), len(block.truncated)} != {self.size(number)}:
                raise InputError(f"{path}: holds another number of texts")
            return block

    def made_on(self) -> list[dict[str, Any]]:
        """The machines that finished blocks were made on, each with its number of blocks."""
        headers = (read_header(self.path(number)) for number in range(self.count))
        machines = [json.dumps(h["made_on"]) for h in headers if h.get("run") == self.run]
        return [json.loads(each) | {"blocks": n} for each, n in Counter(machines).items()]

    def __iter__(self) -> Iterator[Block]:
        """Every block, in order."""
        return (self.read(number) for number in range(self.count))

    @property
    def written(self) -> int:
        """How many of the blocks are there."""
        return sum(self.path(number).exists() for number in range(self.count))

    def missing(self, numbers: Iterable[int] | None = None) -> list[int]:
        """Those of the blocks (of all) that are not there, or cannot be used, which is logged."""
        wanted = range(self.count) if numbers is None else numbers
        return [number for number in wanted if not self._done(number)]

    def _done(self, number: int) -> bool:
        if not self.path(number).exists():
            return False
        try:
            self.read(number)
        except InputError as error:
            _log.warning("%s; the block is computed again", error)
            return False
        return True
