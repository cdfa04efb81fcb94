"""What the child process of `columnar` does: it answers one request, on standard output."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memfast.errors import InputError, one_line
from memfast.limits import Limits
from memfast.prompts.columns import FIELDS, Columns
from memfast.prompts.sources.cells import cells
from memfast.prompts.sources.compression import COMPRESSED, open_bytes, plain_suffix, whole
from memfast.prompts.sources.embedded import embedded_name
from memfast.prompts.sources.rows import BadRow

AT_ONCE = 64  # rows: one of the largest cells in each still fits in memory


def serve(request: dict[str, Any]) -> None:
    """Answer `request`; whatever is raised is an answer too."""
    limits = Limits(**request["limits"])
    _restrict(limits.memory)
    path = Path(request["file"])
    try:
        table = Table.open(path, limits)
        if request["task"] == "rows":
            _send_rows(table, request["column"])
        else:
            _send_images(table)
    except InputError as error:
        _send("error", str(error))
    except BrokenPipeError:
        sys.exit(1)
    except MemoryError:
        _send("error", f"{path}: needs more than {limits.memory} bytes (limit memory)")
    except Exception as error:
        kind = plain_suffix(path)[1:]
        _send("error", f"{path}: not a readable {kind} file ({one_line(error)})")
    with suppress(BrokenPipeError):
        sys.stdout.flush()


def _restrict(memory: int) -> None:
    """Only so much more memory, where the system can bound it; no image of a crash on disk."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        taken = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (taken + memory, taken + memory))


@dataclass(frozen=True)
class Table:
    """A file's columns, and its batches of some of them."""

    path: Path
    limits: Limits
    schema: pa.Schema

    @classmethod
    def open(cls, path: Path, limits: Limits) -> "Table":
        if plain_suffix(path) == ".parquet":
            with _parquet(path, limits) as file:
                return cls(path, limits, file.schema_arrow)
        with _ipc(path, limits, None) as file:
            return cls(path, limits, file.schema)

    def batches(self, names: Sequence[str], start: int = 0) -> Iterator[tuple[int, Any]]:
        """The rows before each batch, and the batch; from the one that holds row `start`."""
        before = 0
        if plain_suffix(self.path) == ".parquet":
            with _parquet(self.path, self.limits) as file:
                groups = list(range(file.num_row_groups))
                sizes = [file.metadata.row_group(group).num_rows for group in groups]
                while groups and before + sizes[groups[0]] <= start:
                    before += sizes[groups.pop(0)]
                for batch in file.iter_batches(AT_ONCE, groups, list(names), use_threads=False):
                    yield before, batch
                    before += len(batch)
            return
        with _ipc(self.path, self.limits, [self.schema.get_field_index(n) for n in names]) as file:
            count = getattr(file, "num_record_batches", None)
            several = file if count is None else map(file.get_batch, range(count))
            for batch in several:
                yield before, batch
                before += len(batch)


@contextmanager
def _parquet(path: Path, limits: Limits) -> Iterator[pq.ParquetFile]:
    compressed = path.suffix.lower() in COMPRESSED
    source = pa.BufferReader(whole(path, limits)) if compressed else pa.OSFile(str(path))
    strings, items = limits.document, limits.values
    with pq.ParquetFile(
        source, thrift_string_size_limit=strings, thrift_container_size_limit=items
    ) as file:
        yield file


@contextmanager
def _ipc(path: Path, limits: Limits, columns: list[int] | None) -> Iterator[Any]:
    options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=columns)
    with open_bytes(path) as handle:
        seekable = handle.read(6) == b"ARROW1"
    with ExitStack() as stack:
        if path.suffix.lower() not in COMPRESSED:
            source = pa.memory_map(str(path))  # columns that are not used are never loaded
        elif seekable:
            source = pa.BufferReader(whole(path, limits))
        else:
            source = pa.PythonFile(stack.enter_context(open_bytes(path)), "r")
        stack.enter_context(source)
        opened = pa.ipc.open_file if seekable else pa.ipc.open_stream
        yield stack.enter_context(opened(source, options=options))


def _send_rows(table: Table, column: str | None) -> None:
    try:
        columns = Columns.find(table.schema.names, column)
    except BadRow as reason:
        raise InputError(f"{table.path}: {reason}") from None
    used = [columns.text, *columns.fields.values()]
    inside = {name for name in used if _embedded(table.schema.field(name).type)}
    read = [name for name in used if name not in inside or name != columns.fields.get("image")]
    for before, batch in table.batches(read):
        values = [cells(batch.column(name), table.limits) for name in read]
        for number, row in enumerate(zip(*values, strict=True), before + 1):
            bad = next((f"{n}: {v}" for n, v in zip(read, row, strict=True) if _is_bad(v)), None)
            if bad is not None:
                _send("bad", number, bad)
                continue
            found = dict(zip(read, row, strict=True))
            if len(read) < len(used):
                found[columns.fields["image"]] = embedded_name(table.path, number)
            _send("row", number, found)
    _send("end")


def _send_images(table: Table) -> None:
    """Answer each line of standard input, a row's number, with the bytes or path of its image."""
    spelling = {name.strip().casefold(): name for name in reversed(table.schema.names)}
    name = next((spelling[key] for key in FIELDS["image"] if key in spelling), None)
    batches: Iterator[tuple[int, Any]] = iter(())
    before, batch = 0, None
    for line in sys.stdin.buffer:
        row = int(line)
        if name is not None and (batch is None or row <= before):
            batches, batch = table.batches([name], row - 1), pa.array([])
        while batch is not None and not before < row <= before + len(batch):
            before, batch = next(batches, (0, None))
        value = None if batch is None else _image(batch.column(name), row - 1 - before)
        if value is None:
            raise InputError(f"{table.path}, row {row}: holds no image")
        _send(*(("bytes", len(value)) if isinstance(value, bytes) else ("path", value)))
        sys.stdout.flush()
        sys.stdout.buffer.write(value if isinstance(value, bytes) else b"")
        sys.stdout.buffer.flush()


def _image(column: Any, place: int) -> bytes | str | None:
    """The bytes of an image, else its path, else None."""
    cell = column.slice(place, 1)
    cell.validate(full=True)
    value = cell[0].as_py()
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    return value if isinstance(value, (bytes, str)) and value else None


def _embedded(kind: pa.DataType) -> bool:
    """Whether a column of this type holds images themselves, as `datasets` stores them."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_bad(value: Any) -> bool:
    return isinstance(value, BadRow)


def _send(*message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
