"""Blocks on disk: the unit of work, of resumption and of determinism."""

import json
from collections import Counter
from collections.abc import Container, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from memfast_kernels import Moments
from safetensors import SafetensorError

from memfast.auditing.looking.worker import Block
from memfast.auditing.storing.index import Index
from memfast.errors import InputError
from memfast.files import load_tensors, read_header, save_tensors
from memfast.prompts import PromptSet

KIND, FORMAT = "audit block", 1
_FIELDS = ("count", "mean", "m2", "max_abs", "nonzero")


class Blocks:
    """The blocks of one audit, in its folder; `run` is the manifest's hash."""

    def __init__(self, folder: Path, run: str, texts: int, block_size: int) -> None:
        self.folder, self.run, self.total, self.block_size = folder, run, texts, block_size
        self.count = -(-texts // block_size)

    def path(self, number: int) -> Path:
        return self.folder / f"block-{number:06d}.safetensors"

    def done(self, number: int) -> bool:
        """Whether the block is there and whole; a damaged one counts as not done."""
        return bool(read_header(self.path(number)))

    def size(self, number: int) -> int:
        """Texts in the block."""
        return min(self.block_size, self.total - number * self.block_size)

    def texts(
        self, prompts: PromptSet, index: Index, wanted: Container[int]
    ) -> Iterator[tuple[int, list[str]]]:
        """(number, texts) of the wanted blocks, in order; the others are only read past."""
        texts = (prompt.text for prompt in index.firsts(prompts))
        for number in range(self.count):
            block = list(islice(texts, self.block_size))
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
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{self.path(number)}: cannot be written ({error}); "
                "no finished block is lost: the same command goes on from here"
            ) from error

    def read(self, number: int) -> Block:
        """A block. Raises InputError when it is missing, damaged or of another run."""
        path = self.path(number)
        tensors, header = load_tensors(path, KIND, FORMAT)
        if (header["run"], header["number"]) != (self.run, number):
            raise InputError(f"{path}: is block {header['number']} of another audit; delete it")
        sites: dict[str, dict] = {}
        for name, tensor in tensors.items():
            if name.startswith("moments/"):
                _, site, field = name.split("/")
                sites.setdefault(site, {})[field] = tensor
        moments = {site: Moments(**found) for site, found in sorted(sites.items())}
        return Block(tensors["scores"], tensors["truncated"], moments, header["made_on"])

    def made_on(self) -> list[dict[str, Any]]:
        """The machines that finished blocks were made on, each with its number of blocks."""
        headers = (read_header(self.path(number)) for number in range(self.count))
        machines = [json.dumps(header["made_on"]) for header in headers if "made_on" in header]
        return [json.loads(each) | {"blocks": n} for each, n in Counter(machines).items()]

    def __iter__(self) -> Iterator[Block]:
        """Every block, in order."""
        return (self.read(number) for number in range(self.count))

    def missing(self) -> list[int]:
        """The numbers of the blocks that are not done."""
        return [number for number in range(self.count) if not self.done(number)]
