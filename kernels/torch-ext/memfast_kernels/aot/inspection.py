"""Reads a compiled kernel: registers, stack, spills, shared memory, instructions."""

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from triton import knobs
from triton.compiler.compiler import CompiledKernel

SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", re.M)
LABEL = re.compile(r"^(\.L\w+):")
JUMP = re.compile(r"BRA(?:\.\w+)*\s.*?(\.L\w+)")
AMD = re.compile(r"^\s+([vs]_[a-z0-9_]+|(?:global|flat|buffer|ds|scratch)_[a-z0-9_]+)", re.M)


@dataclass(frozen=True)
class Report:
    """registers: of one thread; stack: bytes of a thread; shared: bytes of a block.

    loop: the instructions of the longest loop; none are known for AMD.
    """

    registers: int
    stack: int
    spills: int
    shared: int
    instructions: dict[str, int]
    loop: dict[str, int] = field(default_factory=dict)

    def count(self, *prefixes: str) -> int:
        """Instructions whose name starts with one of the prefixes."""
        return sum(n for name, n in self.instructions.items() if name.startswith(prefixes))

    def in_loop(self, *prefixes: str) -> int:
        """The same, of the longest loop alone; all of its instructions without a prefix."""
        return sum(n for name, n in self.loop.items() if name.startswith(prefixes or ""))

    @property
    def total(self) -> int:
        return sum(self.instructions.values())


def inspect(compiled: CompiledKernel) -> Report:
    """The report of a kernel compiled for NVIDIA (cubin) or AMD (amdgcn)."""
    return _amd(compiled) if "amdgcn" in compiled.asm else _nvidia(compiled)


def _nvidia(compiled: CompiledKernel) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(compiled.asm["cubin"])
        usage = _run(knobs.nvidia.cuobjdump.path, "-res-usage", str(path))
        known = compiled.metadata.target.arch >= 75  # nvdisasm reads nothing older
        sass = _run(knobs.nvidia.nvdisasm.path, "-c", str(path)) if known else ""
    instructions = Counter(SASS.findall(sass))
    return Report(
        registers=int(re.findall(r"REG:(\d+)", usage)[-1]),
        stack=int(re.findall(r"STACK:(\d+)", usage)[-1]),
        spills=sum(n for name, n in instructions.items() if name.startswith(("LDL", "STL"))),
        shared=compiled.metadata.shared,
        instructions=dict(instructions),
        loop=longest_loop(sass),
    )


def longest_loop(sass: str) -> dict[str, int]:
    """Instructions between a label and the last jump back to it, of the longest such stretch."""
    names: list[str] = []
    labels: dict[str, int] = {}
    longest: list[str] = []
    for line in sass.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(names)
        elif found := SASS.match(line):
            names.append(found[1])
            jump = JUMP.search(line)
            if jump and jump[1] in labels:
                longest = max(longest, names[labels[jump[1]] :], key=len)
    return dict(Counter(longest))


def _amd(compiled: CompiledKernel) -> Report:
    text = compiled.asm["amdgcn"]
    number = {key: int(value) for key, value in re.findall(r"\.(\w+):\s+(\d+)\s*$", text, re.M)}
    return Report(
        registers=number["vgpr_count"],
        stack=number["private_segment_fixed_size"],
        spills=number["vgpr_spill_count"] + number["sgpr_spill_count"],
        shared=compiled.metadata.shared,
        instructions=dict(Counter(AMD.findall(text))),
    )


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
