"""The list of claims: what each says, what supports it, and how near the search came to it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from theory import checks
from theory.claims._claim import TOLERANCE, Claim
from theory.claims._find import all_claims

Rows = list[tuple[str, ...]]
HEAD = ("claim", "says", "status", "kind", "argument", "mutants refuted", "smallest margin")


def list_claims(
    ledger: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None,
    mutants: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    markdown: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """List the claims: key, status, kind, paper label, mutants, smallest margin, title.

    Args:
        ledger: file that `check --ledger` wrote, for the mutants refuted and the smallest margins.
        mutants: list these too, with what each wrongly says.
        markdown: print a table of Markdown.
    """
    claims = all_claims()
    rows = table(claims, None if ledger is None else _read_ledger(ledger))
    if markdown:
        print(as_markdown(rows))
        return 0
    for claim, line in zip(claims, as_text(rows).splitlines(), strict=True):
        print(line)
        for mutant in claim.mutants if mutants else ():
            print(f"     {claim.key}/{mutant.name}: {mutant.falsehood}")
    return 0


def _read_ledger(path: Path) -> dict[str, Any]:
    rule, todo = "a ledger, as JSON", "make it with `python -m theory check --ledger`"
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        checks.check(False, "list", rule, todo, ledger=str(path), error=error)
    checks.check(isinstance(tree, dict), "list", rule, todo, ledger=str(path))
    return tree


def table(claims: Sequence[Claim], ledger: Mapping[str, Any] | None) -> Rows:
    """Returns HEAD and a row per claim.

    The argument is the paper's equation. Without a ledger of `check` the last two columns hold the
    number of mutants and "-"; so they do for a claim that the ledger lacks, or has with another
    statement. The smallest margin is that of an inequality met in the search, if the claim has
    one: "attained" where only rounding is left, "exact" for equalities alone. Over worlds it is
    taken at the end of a 95 % interval. A claim that is false as stated has a negative one.

    Raises: ValueError: the ledger is none.
    """
    rows: Rows = [HEAD]
    for claim in claims:
        entry = (ledger or {}).get(claim.key, {})
        fields = {"statement", "mutants", "nearest"}
        rule, todo = "a ledger that `python -m theory check --ledger` wrote", "make it again"
        checks.check(not entry or fields <= set(entry), "list", rule, todo, claim=claim.key)
        known = entry.get("statement") == claim.statement
        n, margin = str(len(claim.mutants)), "-"
        if known:
            n = f"{sum(map(bool, entry['mutants'].values()))}/{n}"
            margin = _margin(entry["nearest"])
        title = claim.statement.splitlines()[0]
        rows.append((claim.key, title, claim.status, claim.kind, claim.paper_label, n, margin))
    return rows


def as_text(rows: Rows) -> str:
    """Returns the rows as columns of equal width, the head left out."""
    order = [0, 2, 3, 4, 5, 6, 1]
    moved = [[row[i] for i in order] for row in rows[1:]]
    widths = [max(len(row[i]) for row in moved) for i in range(len(order) - 1)]
    padded = [[c.ljust(w) for c, w in zip(row, widths, strict=False)] + row[-1:] for row in moved]
    return "\n".join(" ".join(row) for row in padded)


def as_markdown(rows: Rows) -> str:
    """Returns the rows as a table of Markdown."""
    lines = [" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows]
    lines.insert(1, " | ".join("---" for _ in rows[0]))
    return "\n".join(f"| {line} |" for line in lines)


def _margin(nearest: Mapping[str, Any] | None) -> str:
    if nearest is None:
        return "-"
    margin = float(nearest["margin"])
    if nearest["relation"] == "=" and margin >= 0:
        return "exact"
    return "attained" if 0 <= margin <= 2 * TOLERANCE else f"{margin:.2g}"
