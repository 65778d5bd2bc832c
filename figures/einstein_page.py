"""The page of Einstein's table: click a latent, one of its components, one of its neighbours."""

import html
import json
from collections.abc import Sequence
from typing import Any

from sae.checks import check


def einstein_page(title: str, decompositions: Sequence[dict[str, Any]], *, first: int) -> str:
    """Returns a self-contained HTML page: its data and its script are inside, nothing is fetched.

    Left the latents, in the middle the components of the one chosen, right the neighbours of the
    component chosen, table by table. Neighbours that are latents of the page can be clicked in
    turn. The address after # says what is shown, as in #7/2: latent 7, its third component.

    Args:
        decompositions: `Decomposition.as_dict()`, each perhaps with a "name" to show.
        first: the latent shown where the address names none, one of theirs.
    Raises: ValueError: what is no dictionary, a first that is not there, NaN.
    """
    for entry in decompositions:
        rule, kind = "dictionaries", type(entry).__name__
        check(isinstance(entry, dict), "einstein_page", rule, "pass its .as_dict()", entry=kind)
    latents = [entry["latent"] for entry in decompositions]
    check(first in latents, "einstein_page", f"a first among the latents {latents}", first=first)
    # "<" escaped, so that no text in the data can end the script element
    data = json.dumps({"first": first, "latents": list(decompositions)}, allow_nan=False)
    data = data.replace("<", "\\u003c")
    return _PAGE.replace("@TITLE@", html.escape(title)).replace("@DATA@", data)


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>@TITLE@</title>
<style>
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1rem auto; max-width: 1200px;
  padding: 0 1rem }
main { display: grid; grid-template-columns: 14rem 16rem 1fr; gap: 1.5rem }
h1 { font-size: 1.25rem } h2 { font-size: 1rem; margin: 0 0 .5rem }
nav { max-height: 75vh; overflow-y: auto }
a { display: block; padding: .15rem .4rem; border-radius: 5px; text-decoration: none;
  color: inherit }
a:hover, a:focus { outline: 1px solid #0072B2 }
a[aria-current] { background: #0072B2; color: #fff }
.bar { height: 5px; background: #D55E00; border-radius: 3px }
table { border-collapse: collapse; margin: 0 0 1rem; width: 100% }
caption { text-align: left; font-weight: 600 }
th { text-align: right; font-weight: 400; opacity: .7 } th:first-child { text-align: left }
td { text-align: right; font-variant-numeric: tabular-nums; padding: 0 .4rem }
td:first-child { text-align: left } td a { color: #0b7ac2; text-decoration: underline }
.known { font-weight: 600 } .copy { opacity: .6 }
</style>
</head>
<body>
<h1>@TITLE@</h1>
<p>Choose a latent, then one of its components: the tables list what lies nearest to it. p is the
chance that rows without structure come as near; firing is the correlation with the component's.
Bold: holds the atom that the component stands for. Pale: the latent once more.</p>
<main>
<nav><h2>Latents</h2><div id="latents"></div></nav>
<section><h2 id="latent"></h2><div id="components"></div></section>
<section><h2 id="component"></h2><div id="tables"></div></section>
</main>
<script type="application/json" id="data">@DATA@</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byLatent = new Map(data.latents.map(d => [d.latent, d]));
const nameOf = d => d.name || "latent " + d.latent;
const number = (x, digits) => x === null ? "\\u2013" : x.toFixed(digits);
function element(tag, text, parent, attributes) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
  parent.append(node);
  return node;
}
function cleared(id) {
  const node = document.getElementById(id);
  node.replaceChildren();
  return node;
}
function chosen() {
  const [latent, component] = location.hash.slice(1).split("/").map(Number);
  const d = byLatent.get(location.hash.length > 1 ? latent : data.first)
    || byLatent.get(data.first);
  return [d, Math.min(component || 0, d.components.length - 1)];
}
function current(yes) { return yes ? {"aria-current": "true"} : {}; }
function show() {
  const [d, at] = chosen();
  const list = cleared("latents");
  for (const other of data.latents)
    element("a", nameOf(other), list, {href: "#" + other.latent, ...current(other === d)});
  document.getElementById("latent").textContent =
    nameOf(d) + ": " + number(100 * d.explained, 1) + " % explained";
  const parts = cleared("components");
  const most = Math.max(...d.components.map(c => Math.abs(c.weight)), 1e-9);
  d.components.forEach((c, i) => {
    element("a", "meta-latent " + c.meta_latent + ", weight " + number(c.weight, 2), parts,
      {href: "#" + d.latent + "/" + i, ...current(i === at)});
    const width = 100 * Math.abs(c.weight) / most;
    element("div", "", parts, {class: "bar", style: "width: " + width + "%"});
  });
  const tables = cleared("tables");
  const c = d.components[at];
  document.getElementById("component").textContent =
    c ? "Nearest to meta-latent " + c.meta_latent : "No component";
  for (const [name, neighbours] of Object.entries(c ? c.neighbours : {})) {
    const table = element("table", "", tables);
    element("caption", name + " (" + d.n_candidates[name] + ")", table);
    const head = element("tr", "", table);
    for (const label of ["row", "cosine", "p", "firing"]) element("th", label, head);
    for (const n of neighbours) {
      const row = element("tr", "", table);
      row.className = (n.known ? "known " : "") + (n.copy ? "copy" : "");
      const cell = element("td", "", row);
      const target = name === "object-level latents" ? byLatent.get(n.row) : undefined;
      if (target) element("a", n.name || nameOf(target), cell, {href: "#" + n.row});
      else cell.textContent = n.name || n.row;
      element("td", number(n.cosine, 3), row);
      element("td", n.p_value.toPrecision(2), row);
      element("td", number(n.correlation, 2), row);
    }
  }
}
addEventListener("hashchange", show);
show();
</script>
</body>
</html>
"""
