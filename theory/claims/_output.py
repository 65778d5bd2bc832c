"""Files that a command is asked to write: refused before the work, not after it."""

import tempfile
from pathlib import Path
from typing import Annotated

import tyro

from theory.checks import check

OutputFile = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]


def check_writable(where: str, **paths: Path | None) -> None:
    """Raises ValueError that names the first path no file can be written to; None is no path.

    A scratch file is made in the folder, which must exist, and removed: permissions alone do not
    tell. What lies at the path already must be an ordinary file, since it will be replaced.
    """
    for name, path in paths.items():
        if path is None:
            continue
        try:
            ordinary = path.is_file() or not path.exists()
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
                pass
        except OSError as error:
            rule = f"--{name} in a folder that exists and can be written"
            todo = "make the folder or choose another"
            check(False, where, rule, todo, **{name: str(path)}, error=error.strerror)
        rule, todo = f"a file for --{name}", "a folder or a device is not replaced"
        check(ordinary, where, rule, todo, **{name: str(path)})
