"""The gallery: one page with every figure, its claim, its margins and where it comes from."""

import base64
import html
import json
import os
from pathlib import Path


def write_gallery(out: Path, names: list[str]) -> Path:
    """Writes <out>/index.html from the figures' files in `out`, and returns its path.

    The page is self-contained (images inside, no script, nothing fetched) and depends on these
    files only. Figures that have none are listed as not drawn.
    """
    cards, entries, missing = [], [], []
    for name in names:
        record, png = out / f"{name}.run.json", out / f"{name}.png"
        if record.exists() and png.exists():
            made = json.loads(record.read_text())
            cards.append(_card(made, png.read_bytes(), out))
            title = html.escape(made["claim"].partition("\n")[0])
            entries.append(f'<li><a href="#{html.escape(made["name"])}">{title}</a></li>')
        else:
            missing.append(f"<code>{html.escape(name)}</code>")
    note = f"<p>Not drawn yet, or refused: {', '.join(missing)}</p>" if missing else ""
    page = _PAGE.format(style=_STYLE, entries="\n".join(entries), cards="\n".join(cards), note=note)
    path = out / "index.html"
    scratch = path.with_name(f".index.html.{os.getpid()}.tmp")
    scratch.write_text(page)
    os.replace(scratch, path)
    return path


def _card(record: dict, png: bytes, out: Path) -> str:
    name = html.escape(record["name"])
    title, _, rest = record["claim"].partition("\n")
    paragraphs = [" ".join(text.split()) for text in rest.split("\n\n") if text.strip()]
    links = [f'<a href="{name}.{suffix}">{suffix}</a>' for suffix in ("pdf", "npz", "run.json")]
    if (out / f"{record['name']}.html").exists():
        links.insert(0, f'<a href="{name}.html">page to click through</a>')
    seconds, memory = record["seconds"]["wall"], record["peak_memory_mib"]
    made = f"preset {record['preset']}, {seconds:.0f} s, {memory} MiB, {record['device']}"
    return _CARD.format(
        name=name,
        title=html.escape(title),
        claim="".join(f"<p>{html.escape(text)}</p>" for text in paragraphs),
        alt=html.escape(f"{record['name']}: {title}", quote=True),
        image=base64.b64encode(png).decode(),
        margins=_table("Margins of the check: the claim holds where ≥ 0", record["margins"]),
        numbers=_table("Numbers", record["numbers"]),
        made=html.escape(made),
        config_hash=html.escape(record["config_hash"][:12]),
        links=" · ".join(links),
    )


def _table(caption: str, values: dict[str, float]) -> str:
    rows = [
        f"<tr><th scope='row'>{html.escape(key)}</th><td>{value:.4g}</td></tr>"
        for key, value in values.items()
    ]
    return f"<table><caption>{caption}</caption>{''.join(rows)}</table>" if rows else ""


_CARD = """<article id="{name}">
<h2>{title}</h2>
<img src="data:image/png;base64,{image}" alt="{alt}">
{claim}
<details><summary>Margins of the check, and numbers</summary>
<div class="tables">{margins}{numbers}</div></details>
<footer><code>{name}</code> · {links} · {made} · configuration <code>{config_hash}</code></footer>
</article>"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SAE testbed: figures</title>
<style>{style}</style>
</head>
<body>
<header><h1>SAE testbed: figures</h1>
<p>Each figure's claim was checked on its data before it was drawn.</p>
{note}
<ol>
{entries}
</ol></header>
<main>
{cards}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1c1f24; --pale: #5b6470;
  --line: #dfe3e8; --link: #0b5cad }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --card: #1e2228; --ink: #e6e9ed;
  --pale: #9aa4b0; --line: #333a43; --link: #7db8f0 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
header, main { max-width: 1180px; margin: 0 auto; padding: 1rem }
h1 { margin: 1rem 0 0; font-size: 1.5rem } header p { color: var(--pale); margin: .25rem 0 0 }
ol { columns: 2 24rem; gap: 2rem; padding-left: 1.6rem; font-size: .9rem }
li { break-inside: avoid; padding-bottom: .2rem }
article { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.25rem; margin-bottom: 1.25rem }
h2 { font-size: 1.15rem; line-height: 1.35; margin: 0 0 .75rem }
img { display: block; max-width: 100%; height: auto; margin: 0 auto; background: #fff;
  border-radius: 8px; padding: 6px }
article > p { margin: .75rem auto 0; max-width: 46rem; overflow-wrap: anywhere }
details { margin: .75rem auto 0; max-width: 46rem; font-size: .9rem }
summary { color: var(--pale); cursor: pointer }
.tables { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 0 2rem }
table { border-collapse: collapse; margin-top: .75rem; font-size: .85rem; flex: 1 1 14rem }
caption { text-align: left; color: var(--pale); padding-bottom: .25rem }
th { text-align: left; font-weight: 400; overflow-wrap: anywhere }
td { text-align: right; font-variant-numeric: tabular-nums; padding-left: 1rem }
tr { border-top: 1px solid var(--line) }
footer { max-width: 46rem; margin: 0 auto; padding-top: .9rem; font-size: .8rem; color: var(--pale);
  overflow-wrap: anywhere }
a { color: var(--link) }
"""
