"""What memfast writes: whole or not at all, marked as its own, checked when it is read again."""

from memfast.files.atomic import (
    atomic_create,
    atomic_write,
    atomic_write_json,
    atomic_write_text,
    to_json,
)
from memfast.files.folders import (
    check_out,
    check_replaceable,
    prepare_out,
    replace_folder,
    try_out,
)
from memfast.files.ledger import Ledger
from memfast.files.lock import locked, locked_out
from memfast.files.naming import near, there
from memfast.files.records import first_difference, read_json, read_record, write_record
from memfast.files.runs import Run, run_hash
from memfast.files.tables import safe_cell, write_csv
from memfast.files.tensors import (
    check_finite,
    load_tensors,
    read_header,
    read_tensors,
    save_tensors,
)
from memfast.files.unfinished import sweep, unfinished

__all__ = [
    "Ledger",
    "Run",
    "atomic_create",
    "atomic_write",
    "atomic_write_json",
    "atomic_write_text",
    "check_finite",
    "check_out",
    "check_replaceable",
    "first_difference",
    "load_tensors",
    "locked",
    "locked_out",
    "near",
    "prepare_out",
    "read_header",
    "read_json",
    "read_record",
    "read_tensors",
    "replace_folder",
    "run_hash",
    "safe_cell",
    "save_tensors",
    "sweep",
    "there",
    "to_json",
    "try_out",
    "unfinished",
    "write_csv",
    "write_record",
]
