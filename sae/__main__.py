"""The command line: python -m sae runs list | verify | prune (the store of runs)."""

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from sae.store import DiskError, Entry, Found, Store, default_root

app = tyro.extras.SubcommandApp()
AsJson = Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]


@app.command(name="list")
def list_runs(root: Path | None = None, as_json: AsJson = False) -> int:
    """List the stored runs: key, function, size, seconds it took, date, versions, configuration.

    Args:
        root: folder of the runs; else SAE_TESTBED_RUNS, or figures/out/runs.
        as_json: print everything that is known of each, as JSON.
    """
    entries = _store(root).entries()
    if as_json:
        print(_json([dataclasses.asdict(entry) for entry in entries]))
        return 0
    rows = [_row(entry) for entry in entries]
    head = ("key", "run", "size", "seconds", "stored (UTC)", "numerics", "torch", "device")
    _print_table((*head, "configuration"), rows)
    total = _bytes(sum(entry.n_bytes for entry in entries))
    seconds = sum(entry.seconds for entry in entries)
    print(f"{len(entries)} runs, {total}, {seconds:.0f} s of computation")
    return 0


@app.command(name="verify")
def verify_runs(root: Path | None = None, move: Flag = False, as_json: AsJson = False) -> int:
    """Read every byte of the stored runs and list the broken ones; exit 1 if there are any.

    Args:
        root: folder of the runs; else SAE_TESTBED_RUNS, or figures/out/runs.
        move: set the broken ones aside in <root>/broken, so that they are computed again.
        as_json: print them as JSON.
    """
    broken = _store(root).verify(move=move)
    verb = "set aside" if move else "broken; --move sets them aside"
    _print_found(broken, f"{len(broken)} runs {verb}" if broken else "every run is sound", as_json)
    return int(bool(broken))


@app.command(name="prune")
def prune_runs(
    root: Path | None = None,
    older_than: float = math.inf,
    other_versions: Flag = False,
    dry_run: Flag = False,
    as_json: AsJson = False,
) -> int:
    """Remove what killed processes left, and runs if asked to; runs in progress lose nothing.

    Args:
        root: folder of the runs; else SAE_TESTBED_RUNS, or figures/out/runs.
        older_than: days; also remove runs, unfinished checkpoints and broken runs, if older.
        other_versions: also remove runs of another numerics version or torch.
        dry_run: only say what would be removed.
        as_json: print it as JSON.
    """
    store = _store(root)
    found = store.prune(older_than=older_than, other_versions=other_versions, dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    size = _bytes(sum(thing.n_bytes for thing in found))
    _print_found(found, f"{len(found)} things, {size}, {verb}", as_json)
    return 0


def main(args: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code; 2 for a wrong call or a refusing disk."""
    args = sys.argv[1:] if args is None else list(args)
    if args[:1] != ["runs"]:
        asked = args[:1] in (["-h"], ["--help"])
        text = "usage: python -m sae runs list | verify | prune (-h after each says more)"
        print(text, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        return app.cli(prog="python -m sae runs", args=args[1:])
    except (ValueError, DiskError) as error:
        print(error, file=sys.stderr)
        return 2


def _store(root: Path | None) -> Store:
    root = default_root() if root is None else root
    if not root.is_dir():
        raise ValueError(f"runs: expected the folder of a store, got root={str(root)!r}")
    return Store(root)


def _row(entry: Entry) -> tuple[str, ...]:
    measured = (_bytes(entry.n_bytes), f"{entry.seconds:.1f}", entry.when[:16].replace("T", " "))
    versions = (str(entry.numerics_version), entry.torch, entry.device_type)
    return (entry.key[:12], entry.what, *measured, *versions, _brief(entry.config))


def _brief(config: object) -> str:
    """A configuration on one line of at most 100 characters."""
    if isinstance(config, dict):
        fields = [f"{k}={_brief(v)}" for k, v in config.items() if k not in ("class", "sha256")]
        name = config.get("class", "").rpartition(".")[2] if "class" in config else ""
        text = f"{name}({', '.join(fields)})"
    elif isinstance(config, list):
        text = f"[{', '.join(map(_brief, config))}]"
    else:
        text = json.dumps(config)
    return text if len(text) <= 100 else f"{text[:97]}..."


def _bytes(n: int) -> str:
    size, unit = float(n), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{n} B" if unit == "B" else f"{size:.1f} {unit}"


def _print_found(found: list[Found], verdict: str, as_json: bool) -> None:
    if as_json:
        print(_json([dataclasses.asdict(thing) for thing in found]))
        return
    rows = [(_bytes(thing.n_bytes), str(thing.path), thing.why) for thing in found]
    if rows:
        _print_table(("size", "path", "why"), rows)
    print(verdict)


def _print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print(
            "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        )


def _json(tree: object) -> str:
    return json.dumps(tree, indent=2, default=str)


if __name__ == "__main__":
    sys.exit(main())
