"""From finished blocks to what is read: a table, the flagged prompts, detection figures."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memfast.auditing.calibration import Calibration
from memfast.auditing.detection import figures
from memfast.auditing.storing.blocks import Blocks
from memfast.auditing.storing.index import Index
from memfast.errors import some
from memfast.files import atomic_write, write_csv
from memfast.prompts import Prompt

NEGATIVE = frozenset(  # labels that say "not memorized"; every other label says the opposite
    {"0", "false", "no", "none", "negative", "reference", "held-out", "heldout", "single"}
    | {"singles", "unmemorized", "nonmemorized", "non-memorized", "x0", "x1"}
)
ROWS_A_GROUP = 65_536


@dataclass(frozen=True)
class Result:
    """Figures of every prompt of the list, in its order.

    values: [prompts, columns], the mean over noises; NaN where the model's output was not finite.
    score: the column that decides; threshold: above it a prompt is flagged, infinite where none
    is to be; rank: 1 is the most suspicious. Duplicated texts share their text's figures.
    """

    columns: list[str]
    values: np.ndarray
    truncated: np.ndarray
    score: str
    threshold: float

    def column(self, name: str) -> np.ndarray:
        """A column's value of every prompt."""
        return self.values[:, self.columns.index(name)]

    @property
    def deciding(self) -> np.ndarray:
        return self.column(self.score)

    def of_texts(self, column: str, index: Index) -> np.ndarray:
        """A column's value of every different text."""
        return self.column(column)[index.first]

    @property
    def flagged(self) -> np.ndarray:
        return self.deciding > self.threshold

    @property
    def rank(self) -> np.ndarray:
        return _ranks(self.deciding)

    def rank_of_texts(self, index: Index) -> np.ndarray:
        """The rank among different texts, of every prompt."""
        return _ranks(self.deciding[index.first])[index.unique]

    @classmethod
    def of(cls, blocks: Blocks, calibration: Calibration, index: Index, score: str) -> "Result":
        """Read all blocks, in order; nothing is flagged yet."""
        columns = calibration.columns()
        values = np.empty((index.texts, len(columns)))
        truncated = np.empty(index.texts, np.bool_)
        start = 0
        for block in blocks:
            part = slice(start, start + len(block.truncated))
            values[part] = calibration.table(block.scores).numpy()
            truncated[part] = block.truncated.numpy()
            start = part.stop
        return cls(columns, values[index.unique], truncated[index.unique], score, np.inf)


def _ranks(values: np.ndarray) -> np.ndarray:
    """1 for the largest; equal ones in their order, NaN last."""
    rank = np.empty(len(values), np.int64)
    rank[np.argsort(-values, kind="stable")] = np.arange(1, len(values) + 1)
    return rank


def write_table(path: Path, prompts: Iterable[Prompt], result: Result) -> None:
    """scores.parquet: one row a prompt of the list, in its order, written in row groups."""
    text = {name: pa.string() for name in ("id", "prompt", "label", "group")}
    schema = pa.schema(
        list(text.items())
        + [("line", pa.int64()), ("truncated", pa.bool_())]
        + [(name, pa.float64()) for name in result.columns]
        + [("flagged", pa.bool_()), ("rank", pa.int64())]
    )
    flagged, rank = result.flagged, result.rank

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            start = 0
            for batch in _batches(prompts):
                part = slice(start, start + len(batch))
                data = {
                    "id": [prompt.id for prompt in batch],
                    "prompt": [prompt.text for prompt in batch],
                    "label": [prompt.label for prompt in batch],
                    "group": [prompt.group for prompt in batch],
                    "line": [prompt.line for prompt in batch],
                    "truncated": result.truncated[part],
                    "flagged": flagged[part],
                    "rank": rank[part],
                }
                data |= {n: result.values[part, c] for c, n in enumerate(result.columns)}
                writer.write_table(pa.table(data, schema=schema))
                start = part.stop

    atomic_write(path, write)


def suspicious(
    prompts: Iterable[Prompt], result: Result, chosen: np.ndarray
) -> list[dict[str, Any]]:
    """The chosen prompts, one row for each text, the most suspicious first."""
    rows = [
        {"rank": int(rank), result.score: float(value), "id": p.id, "prompt": p.text}
        | {"label": p.label or "", "line": p.line, "asked": p}
        for p, wanted, rank, value in zip(
            prompts, chosen, result.rank, result.deciding, strict=True
        )
        if wanted
    ]
    unique: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row["rank"]):
        unique.setdefault(row["prompt"], row)
    return list(unique.values())


def write_flagged(path: Path, rows: Sequence[dict[str, Any]], score: str) -> None:
    """flagged.csv, for people."""
    write_csv(path, ["rank", score, "id", "prompt", "label", "line"], rows)


@dataclass(frozen=True)
class Labelled:
    """The prompts with a label, by label, less those that calibration has seen."""

    rows: dict[str, list[int]]
    groups: list[str | None]

    @classmethod
    def of(cls, prompts: Iterable[Prompt], seen: frozenset[str]) -> "Labelled":
        """`seen`: texts that calibration used. Duplicated texts count once."""
        rows: dict[str, list[int]] = {}
        groups: list[str | None] = []
        counted: set[str] = set()
        for number, prompt in enumerate(prompts):
            groups.append(prompt.group)
            if prompt.label and prompt.text not in seen and prompt.text not in counted:
                counted.add(prompt.text)
                rows.setdefault(prompt.label, []).append(number)
        return cls(rows, groups)

    @property
    def negative(self) -> list[int]:
        """Row numbers of every prompt labelled as not memorized."""
        return sorted(n for label, rows in self.rows.items() if is_negative(label) for n in rows)

    @property
    def positive(self) -> dict[str, list[int]]:
        """Row numbers by each other label, and of all of them together where they are several."""
        found = {label: rows for label, rows in self.rows.items() if not is_negative(label)}
        every = {"all": sorted(n for rows in found.values() for n in rows)}
        return every | found if len(found) > 1 else found

    @property
    def lacking(self) -> str | None:
        """Why labels give no detection figures, in a sentence; None where they do, and where there
        are none."""
        if not self.rows or (self.negative and self.positive.keys() - {"all"}):
            return None
        kind, other = ("not memorized", "memorized")
        if not self.negative:
            kind, other = other, kind
        names = some([repr(label) for label in sorted(self.rows)])
        return f"No detection figures: all labels ({names}) say {kind}, none {other}."

    def figures(self, result: Result, column: str) -> dict[str, dict[str, Any]]:
        """Detection figures of one score, by label, against all negatives; {} without both."""
        values = result.column(column)
        negative = self.negative
        return {
            label: {"positives": len(rows), "negatives": len(negative)}
            | {
                name: asdict(interval)
                for name, interval in figures(
                    values[rows],
                    values[negative],
                    [self.groups[n] for n in rows],
                    [self.groups[n] for n in negative],
                ).items()
            }
            for label, rows in self.positive.items()
            if rows and negative
        }


def is_negative(label: str) -> bool:
    """Whether a label says that a prompt is not memorized."""
    return label.strip().casefold() in NEGATIVE


def _batches(prompts: Iterable[Prompt]) -> Iterator[list[Prompt]]:
    batch: list[Prompt] = []
    for prompt in prompts:
        batch.append(prompt)
        if len(batch) == ROWS_A_GROUP:
            yield batch
            batch = []
    if batch:
        yield batch


def merged_moments(blocks: Blocks) -> dict[str, Any]:
    """The blocks' statistics, merged in their order: the same bits whoever computed them."""
    from memfast_kernels import merge

    total: dict[str, Any] = {}
    for block in blocks:
        for site, moments in block.moments.items():
            total[site] = merge(total[site], moments) if site in total else moments
    return total
