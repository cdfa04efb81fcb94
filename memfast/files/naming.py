"""What a user named: whether it is there, and what is spelled like it where it is not."""

import os
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from memfast.errors import InputError, reading

IS = {"file": os.path.isfile, "folder": os.path.isdir}
MOST = 10_000  # entries of a folder that are compared
SHOWN = 2


def there(path: str | Path, kind: str = "file", name: object = None, *more: str) -> Path:
    """`path`, which is there as a `kind`: "file", "folder" or "file or folder".

    Raises InputError that begins with `name` (the path itself, if None) where it is not, with the
    names beside it, or among `more`, that are spelled like it.
    """
    name, kinds = path if name is None else name, kind.split(" or ")
    with reading(name):
        try:
            os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{name}: no such {kind}{near(path, kind, *more)}") from None
        if not any(IS[each](path) for each in kinds):
            neither = "neither a file nor a folder"
            raise InputError(f"{name}: {neither if len(kinds) > 1 else f'not a {kind}'}")
    return Path(path)


def near(path: str | Path, kind: str = "file or folder", *more: str) -> str:
    """What is spelled like a path that does not exist, or like the first part of it that does not,
    as " (there is …)": entries of its folder, of this kind where it is the last part, and `more`.
    """
    path = Path(path)
    while not os.path.lexists(path.parent):
        path, kind, more = path.parent, "folder", ()
    try:
        with os.scandir(path.parent) as entries:
            kinds = [IS[each] for each in kind.split(" or ")]
            beside = [e.name for e in islice(entries, MOST) if any(is_(e.path) for is_ in kinds)]
    except OSError:
        beside = []
    found = get_close_matches(path.name, [*more, *sorted(beside)], SHOWN)
    return f" (there is {' and '.join(found)})" if found else ""
