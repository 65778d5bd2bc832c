"""Writes paper/generated/: what the paper takes from the claims' ledger and the figures' records.

claims.tex    one \\claim line per claim of the ledger; none without a ledger: equations show "?"
numbers.tex   \\resultvalue and \\figurerun lines per figure; an unknown number shows "??"
fig_*.pdf     the figures; a missing one shows the command that makes it

A figure counts from figures/out/ (the last run) or, failing that, from the committed
figures/reference/; its numbers and its PDF are taken from the same place. Run it as
`python -m paper.generate [--check]`.
"""

import argparse
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEDGER = ROOT / "paper" / "generated" / "ledger.json"
MAKE_LEDGER = "python -m paper.generate --check"
UNDEFINED = r"\textcolor{red}{??}"
ESCAPES = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}",
    "≤": r"\ensuremath{\le}",
    "≥": r"\ensuremath{\ge}",
    "−": r"\ensuremath{-}",
    "×": r"\ensuremath{\times}",
}


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 written (a refuted claim is printed and marked), 1 not written."""
    parser = argparse.ArgumentParser(prog="python -m paper.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="check the claims first")
    parser.add_argument("--examples", type=int, default=200, help="instances per claim (200)")
    parser.add_argument("--ledger", type=Path, default=LEDGER, help="JSON file of the last check")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            check_claims(options.ledger, options.examples)
        for line in generate(options.ledger, ROOT / "figures", ROOT / "paper" / "generated"):
            print(line)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def check_claims(ledger: Path, examples: int) -> None:
    """Makes the ledger anew; a refuted claim is no error here, a missing ledger is.

    Raises:
        ValueError: the check wrote no ledger.
    """
    ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger.unlink(missing_ok=True)
    command = ["-m", "theory", "check", "--trained", "--ledger", str(ledger)]
    command += ["--examples", str(examples)]
    code = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
    if not ledger.exists():
        ran = f"python {' '.join(command)}"
        raise ValueError(f"paper: expected a ledger at {ledger}, got exit code {code} from `{ran}`")


def generate(ledger: Path, figures: Path, out: Path) -> list[str]:
    """Writes claims.tex, numbers.tex and the figures' PDFs into `out`; returns what to tell.

    Args:
        ledger: JSON of `python -m theory check`; need not exist.
        figures: folder with the scripts fig_*.py, out/ and reference/.
        out: folder to write to; PDFs of figures that are no longer there are removed.
    Raises:
        ValueError: a file is not JSON, or lacks what is needed; names it and says what to do.
    """
    notes = []
    claims, numbers = "", ""
    if ledger.exists():
        entries = read_json(ledger, f"make it again with `{MAKE_LEDGER}`")
        claims = claim_lines(entries, str(ledger))
        refuted = [key for key, entry in entries.items() if state(entry) == "fail"]
        notes += [f"claims: {len(entries)} in the ledger, failing: {', '.join(refuted) or 'none'}"]
    else:
        notes += [f"claims: no ledger at {ledger}; make it with `{MAKE_LEDGER}`"]
    pictures = {}
    for name in sorted(script.stem for script in figures.glob("fig_*.py")):
        again = f"python -m figures {name}"
        places = [figures / "out" / f"{name}.run.json"]
        places += [figures / "reference" / f"{name}{end}" for end in (".run.json", ".json")]
        place = next((place for place in places if place.exists()), None)
        if place is None:
            notes += [f"{name}: not made yet; make it with `{again}`"]
            continue
        record = read_json(place, f"make it again with `{again}`")
        numbers += number_lines(name, record, str(place))
        notes += [f"{name}: preset {record['preset']}, from {place.parent.name}/"]
        picture = place.with_name(f"{name}.pdf")
        if picture.exists():
            pictures[picture.name] = picture
        else:
            notes += [f"{name}: no PDF in {place.parent.name}/; make it with `{again}`"]
    out.mkdir(parents=True, exist_ok=True)
    (out / "claims.tex").write_text(claims or "% no ledger\n", encoding="utf-8")
    (out / "numbers.tex").write_text(numbers or "% no figures\n", encoding="utf-8")
    for stale in out.glob("fig_*.pdf"):
        stale.unlink()
    for file, picture in pictures.items():
        shutil.copyfile(picture, out / file)
    return notes


def read_json(path: Path, todo: str) -> dict:
    """Returns the JSON object in a file.

    Raises:
        ValueError: it is not JSON, or not an object.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"paper: expected JSON in {path}, got {error}; {todo}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"paper: expected an object in {path}, got {type(tree).__name__}; {todo}")
    return tree


def state(entry: Mapping) -> str:
    """Returns "pass" if the claim was not refuted and each mutant was, else "fail".

    A claim whose status is "refuted" is "false" in place of "pass": it fell, as it must.
    """
    as_stated = entry["passed"] and all(entry["mutants"].values())
    return ("false" if entry["status"] == "refuted" else "pass") if as_stated else "fail"


def claim_lines(entries: Mapping[str, Mapping], where: str) -> str:
    """Returns one \\claim line per entry of a ledger, in alphabetical order of the keys.

    Raises:
        ValueError: an entry lacks a field that is printed; names both.
    """
    fields = ("passed", "status", "kind", "examples", "void", "worst_margin", "mutants")
    lines = []
    for key in sorted(entries):
        entry = entries[key]
        _require(entry, fields, f"{where}, claim {key}", f"make it again with `{MAKE_LEDGER}`")
        refuted = f"{sum(map(bool, entry['mutants'].values()))}/{len(entry['mutants'])}"
        margin = format_number(entry["worst_margin"]) or "--"
        columns = [state(entry), escape(entry["status"]), escape(entry["kind"])]
        columns += [str(entry["examples"]), str(entry["void"]), margin, refuted]
        lines.append(f"\\claim{{{_name(key)}}}" + "".join(f"{{{column}}}" for column in columns))
    return "\n".join(lines) + "\n"


def number_lines(figure: str, record: Mapping, where: str) -> str:
    """Returns the \\figurerun line of a figure and one \\resultvalue line per number.

    A number that is NaN or infinite gets no line, so that the text shows "??".

    Raises:
        ValueError: the record lacks a field, has no margins, or a number has an impossible name.
    """
    fields = ("preset", "numbers", "margins", "config_hash")
    _require(record, fields, where, f"make it again with `python -m figures {figure}`")
    margins = record["margins"]
    if not margins:
        raise ValueError(f"paper: expected margins in {where}, got none: nothing was asserted")
    worst = min(margins, key=margins.get)
    smallest = format_number(margins[worst]) or UNDEFINED
    arguments = [figure, escape(record["preset"]), str(len(margins)), smallest]
    arguments += [escape(worst), escape(str(record["config_hash"])[:8])]
    lines = ["\\figurerun" + "".join(f"{{{argument}}}" for argument in arguments)]
    for name, value in sorted(record["numbers"].items()):
        text = format_number(value)
        if text:
            lines.append(f"\\resultvalue{{{figure}}}{{{_name(name)}}}{{{text}}}")
    return "\n".join(lines) + "\n"


def format_number(value: float | None, digits: int = 3) -> str:
    """Returns a number as LaTeX: the one place where digits are rounded.

    Whole numbers below 10^6 in full; else `digits` significant digits, never rounded left of the
    decimal point; powers of ten below 10^-3 and from 10^6. Empty for None, NaN and infinity.

    Example:
        >>> format_number(0.43217), format_number(12.0), format_number(-2.5e-7)
        ('0.432', '12', '$-2.50\\\\times10^{-7}$')
    """
    if value is None or not math.isfinite(value):
        return ""
    if value == int(value) and abs(value) < 10**6:
        text = str(int(value))
    else:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        power = int(exponent)
        if -3 <= power < 6:
            text = f"{value:.{max(0, digits - 1 - power)}f}"
        else:
            return f"${mantissa}\\times10^{{{power}}}$"
    return f"${text}$" if text.startswith("-") else text


def escape(text: str) -> str:
    """Returns text that LaTeX prints as it is; a character it may not know as [U+XXXX]."""
    known = {char: ESCAPES.get(char, char) for char in set(text)}
    for char in known:
        if not char.isprintable():
            known[char] = " "
        elif not char.isascii() and char not in ESCAPES:
            known[char] = f"[U+{ord(char):04X}]"
    return "".join(known[char] for char in text)


def _name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.'-]+", name):
        raise ValueError(f"paper: expected a name of letters, digits and _.'-, got {name!r}")
    return name


def _require(entry: object, fields: tuple[str, ...], where: str, todo: str) -> None:
    got = sorted(entry) if isinstance(entry, Mapping) else type(entry).__name__
    if not isinstance(entry, Mapping) or any(field not in entry for field in fields):
        raise ValueError(f"paper: expected {', '.join(fields)} in {where}, got {got}; {todo}")


if __name__ == "__main__":
    sys.exit(main())
