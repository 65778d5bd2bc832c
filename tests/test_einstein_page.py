"""The page of Einstein's table, in a headless browser: what it shows, what a click leads to."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from figures import fig_einstein
from figures.draw import draw
from figures.einstein_page import einstein_page
from figures.gallery import write_gallery
from theory.decomposition import decompose

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
MIXING = torch.tensor([[0.6, 0.8, 0.0], [0.0, 0.8, 0.6], [0.6, 0.0, 0.8]])
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="needs chromium on the path, to run the page's script"
)


def objects():
    atoms = torch.eye(5)[:3]
    tables = {"true atoms": atoms}
    return [decompose(i, MIXING @ atoms, atoms, MIXING, tables=tables) for i in range(3)]


def decompositions():
    return [found.as_dict() for found in objects()]


def shown(tmp_path, page, address="", click=None):
    """Returns the page's elements after its script ran, without the data: {id: inner HTML}."""
    if click:  # a script that clicks as a reader does, after the page's own
        script = f"<script>document.querySelector({click!r}).click();</script>"
        page = page.replace("</body>", script + "</body>")
    path = tmp_path / "page.html"
    path.write_text(page)
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"]
    command += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        f"{path.as_uri()}{address}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    text = re.sub(r"<script.*?</script>", "", done.stdout, flags=re.DOTALL)
    found = re.findall(r'<(h2|div) id="(\w+)">(.*?)</(?:h2|nav|section)>', text, flags=re.DOTALL)
    return {name: html.unescape(inner) for _, name, inner in found}


def cells(inner):
    """Returns the table rows' texts."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", inner, flags=re.DOTALL)
    return [[re.sub("<[^>]*>", "", c) for c in re.findall(r"<td>(.*?)</td>", r)] for r in rows]


@needs_browser
def test_the_first_latent_is_shown_with_its_components_and_neighbours(tmp_path):
    found = decompositions()
    page = shown(tmp_path, einstein_page("Title", found, first=1))
    assert page["latent"] == "latent 1: 100.0 % explained"
    assert page["latents"].count("href=") == 3
    assert re.findall(r"meta-latent (\d), weight ([\d.]+)", page["components"]) == [
        ("1", "0.80"),
        ("2", "0.60"),
    ]
    assert page["component"] == "Nearest to meta-latent 1"
    tables = found[1]["components"][0]["neighbours"]
    expected = [
        [f"latent {n['row']}" if name.startswith("object") else str(n["row"]), f"{n['cosine']:.3f}"]
        for name, neighbours in tables.items()
        for n in neighbours
    ]
    assert [row[:2] for row in cells(page["tables"]) if row] == expected


@needs_browser
def test_clicks_lead_from_component_to_neighbour(tmp_path):
    page = einstein_page("Title", decompositions(), first=1)
    second = shown(tmp_path, page, click="#components a:nth-of-type(2)")
    assert second["component"] == "Nearest to meta-latent 2"
    neighbour = shown(tmp_path, page, address="#1/1", click="#tables td a")
    assert neighbour["latent"].startswith("latent 2:")  # the other latent with atom 2
    unknown = shown(tmp_path, page, address="#77")
    assert unknown["latent"].startswith("latent 1:")


@needs_browser
def test_names_are_text_whatever_they_hold(tmp_path):
    found = decompositions()
    found[1]["name"] = "</script><b id='component'>Einstein & co"
    found[1]["components"] = []
    page = shown(tmp_path, einstein_page("a < b", found, first=1))
    assert page["latent"] == f"{found[1]['name']}: 100.0 % explained"
    assert page["component"] == "No component"


@needs_browser
def test_the_figure_writes_its_page_and_it_opens_at_the_planted_triple(tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_TESTBED_RUNS", str(tmp_path / "runs"))
    config = fig_einstein.CONFIGS["smoke"]
    draw(Path(fig_einstein.__file__), "smoke", tmp_path)
    text = (tmp_path / "fig_einstein.html").read_text()
    card = write_gallery(tmp_path, ["fig_einstein"]).read_text()
    assert '<a href="fig_einstein.html">' in card
    mixing = fig_einstein.world(fig_einstein._runs(config)[0])[0]
    triple = mixing[len(mixing) // 2].nonzero()[:, 0].tolist()
    page = shown(tmp_path, text)
    assert f"(atoms {' + '.join(map(str, triple))})" in page["latent"]
    told = []
    for i in range(page["components"].count("href=")):
        tables = shown(tmp_path, text, click=f"#components a:nth-of-type({i + 1})")["tables"]
        (atoms,) = [t for t in tables.split("<table>") if "true atoms" in t]
        told.append(re.search(r'class="known ">\s*<td>atom (\d+)', atoms))
    assert sorted(int(found[1]) for found in told if found) == triple


@pytest.mark.parametrize(
    ("found", "first", "message"),
    [
        (decompositions(), 99, r"a first among the latents \[0, 1, 2\], got first=99"),
        ([], 0, r"a first among the latents \[\], got first=0"),
        (objects(), 0, r"dictionaries, got entry='Decomposition'; pass its \.as_dict"),
    ],
)
def test_a_page_that_could_not_open_is_not_written(unchecked, found, first, message):
    with pytest.raises(ValueError, match=f"^einstein_page: expected {message}"):
        einstein_page("Title", found, first=first)


def test_nothing_is_fetched_and_numbers_are_finite():
    page = einstein_page("Title", decompositions(), first=0)
    assert not re.search(r"https?:|src=|@import|url\(", page)
    found = decompositions()
    found[0]["explained"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        einstein_page("Title", found, first=0)
