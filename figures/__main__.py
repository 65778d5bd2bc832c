"""The command line: python -m figures [NAME...] --preset smoke|quick|paper."""

import signal
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from figures import compare, runner

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Options:
    """Makes the figures, or says something about them."""

    names: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FIGURE ...]")
    ] = ()
    """Figures to make, e.g. fig_recovery; all of them if none is named."""
    preset: Literal["smoke", "quick", "paper"] = "quick"
    """How large the runs are."""
    jobs: int = 2
    """Figures made at a time, each with one process and one thread."""
    out: Path = Path("figures/out")
    """Folder the figures are written to."""
    list_: Annotated[bool, tyro.conf.arg(name="list")] = False
    """List the figures with their measured seconds instead."""
    compare: bool = False
    """Compare the arrays made before, at the preset paper, with the committed ones instead."""
    bench: bool = False
    """Run the benchmarks (bench_*.py) instead, one after the other."""


def main(arguments: list[str] | None = None, folder: Path = HERE) -> int:
    """Returns the exit code: 0 done, 1 a figure failed or differs, 2 a wrong call or no reference,
    130 interrupted."""
    default = Options(out=HERE / "out" if folder == HERE else folder / "out")
    options = tyro.cli(
        Options, args=arguments, default=default, prog="python -m figures", config=(_FLAGS,)
    )
    try:
        if options.jobs < 1:
            raise ValueError(f"figures: expected jobs >= 1, got jobs={options.jobs}")
        prefix = "bench_" if options.bench else "fig_"
        scripts = runner.select(runner.discover(folder, prefix), options.names)
        if not (options.list_ or options.compare or options.bench):
            runner.make_folder(options.out)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if options.list_:
        print(runner.listing(folder, options.out))
        return 0
    if options.compare:
        return compare.compare(scripts, options.out, folder / "reference")
    try:
        if options.bench:
            return _bench(scripts)
        failed = runner.make(folder, scripts, options.preset, options.jobs, options.out)
    except KeyboardInterrupt:
        todo = "runs that were completed are kept; the same command resumes"
        print(f"figures: interrupted; {todo}", file=sys.stderr)
        return 130
    return int(failed > 0)


_FLAGS = tyro.conf.FlagCreatePairsOff


def _bench(scripts: dict[str, Path]) -> int:
    from figures.draw import import_script  # only now: it imports torch

    failed = 0
    for name, script in scripts.items():
        print(f"{name}:", flush=True)
        try:
            import_script(script).main()
        except Exception:
            traceback.print_exc()
            failed = 1
    return failed


def _terminated(signum: int, frame: object) -> None:
    sys.exit(128 + signum)  # an exception, so that what was started is stopped


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    signal.signal(signal.SIGHUP, _terminated)
    sys.exit(main())
