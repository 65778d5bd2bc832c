"""The parts of a composed latent point at the atoms it is made of, and at the latents with them.

Features are mixtures of two or three atoms that never fire alone, as "Einstein" is of science,
fame and Germany. A meta-SAE trained directly (latents that are sparse mixtures of meta-latents, by
alternating exact steps) decomposes the latent of a triple that was chosen before anything was
trained. Left: the five rows nearest to each of its components among the other latents, the latents
of an SAE as narrow as there are atoms, the true atoms and the true features. Filled: the row holds
the atom that the component is nearest to, and the latent is made of it. Dashed: what the best of as
many structureless rows reaches one time in twenty. Object-level neighbours that hold the atom reach
cosines of .5 to .8, not 1: an atom that never fires alone has no closer one. Right, over worlds
(bars: medians; fresh atoms, mixtures, data and start each): how many of the triple's components are
nearest to an atom of its own; the same for all latents, by squared weight, as a pair may have a
third component of hardly any; and how many have the atom in their nearest other latent. Last: for
how many atoms every latent that holds the atom is nearer to its component than all that do not.
Where the measured errors of rows and atoms are below the certificate's limit it must be so for all;
above it, it is for most.

Paper: fig:einstein. The example: Bussmann et al. 2024, Showing SAE latents are not atomic using
meta-SAEs, who give the latent's own neighbours; asked for in the discussion are its components'.
"""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor
from torch.nn.functional import normalize

from figures.einstein_page import einstein_page
from figures.runs import cached, device, map_cached, require
from sae.direct import nonnegative_omp, object_rows, product_dictionary
from theory import neighbour_p_values
from theory.decomposition import OBJECT, Decomposition, decompose
from theory.retrieval import direction_errors, retrieval
from toymodels import Dictionary, ToyModel, random_unit, stream
from toymodels.presets import composed_world

SMALL, ATOMS, FEATURES = "smaller SAE's latents", "true atoms", "true features"
TABLES = (OBJECT, SMALL, ATOMS, FEATURES)
N_NEIGHBOURS, K, K_META, NOISE, TOLERANCE = 5, 4, 3, 0.05, 0.28
ACTIVE = 1.2  # features on average
LEVEL = 0.05


@dataclass(frozen=True)
class Config:
    """Worlds and sizes; half of the features are pairs, half triples."""

    n_worlds: int
    n_atoms: int = 24
    n_features: int = 60
    d_in: int = 64
    n_samples: int = 3000
    n_rounds: int = 2
    codes_kept: bool = True


CONFIGS = {
    "smoke": Config(2, n_atoms=16, n_features=40, n_samples=1500, n_rounds=1),
    "quick": Config(5),
    "paper": Config(8, n_atoms=32, n_features=80, n_samples=5000),
}


@dataclass(frozen=True)
class Run:
    """The SAEs of world `seed`."""

    seed: int
    n_atoms: int
    n_features: int
    d_in: int
    n_samples: int
    n_rounds: int


def world(run: Run) -> tuple[Tensor, Dictionary, ToyModel]:
    """Returns mixing [n_features, n_atoms], atoms and the world; pairs first, then triples."""
    atoms = random_unit(run.n_atoms, run.d_in, generator=stream(run.seed, "atoms", device()))
    rng, n = stream(run.seed, "mixing", device()), run.n_features
    made = composed_world(atoms, n, l0=ACTIVE, exponent=0.0, noise_std=NOISE, generator=rng)
    return made.mixing, atoms, made.model


def trained(run: Run) -> dict[str, np.ndarray]:
    """Returns rows, meta-decoder and meta-codes, the smaller SAE's rows, and firing of all."""
    mixing, _, model = world(run)
    x = model.sample(run.n_samples, generator=stream(run.seed, "train", device())).x
    batch = model.sample(run.n_samples // 2, generator=stream(run.seed, "eval", device()))
    found = product_dictionary(
        x,
        held_out=batch.x,
        n_latents=run.n_features,
        n_meta=run.n_atoms,
        k=K,
        k_meta=K_META,
        n_starts=1,
        n_rounds=run.n_rounds,
        generator=stream(run.seed, "direct", device()),
    )
    small = object_rows(x, run.n_atoms, K, generator=stream(run.seed, "small", device()))
    floor = TOLERANCE * float(batch.x.square().sum(1).mean().sqrt())
    codes = batch.codes.dense()
    arrays = {"rows": found.rows, "meta_decoder": found.atoms, "meta_codes": found.mixing}
    arrays |= {"small": small, "fires_latents": found.codes(batch.x) != 0}
    arrays["fires_small"] = nonnegative_omp(batch.x, small, K, tolerance=floor) != 0
    arrays |= {"fires_atoms": codes @ mixing != 0, "fires_features": codes != 0}
    return {name: value.cpu().numpy() for name, value in arrays.items()}


@dataclass(frozen=True, eq=False)
class World:
    """Every latent decomposed, and what each row of each table holds of the atoms.

    holds: by table, [n_rows, n_atoms]; all False for learned rows that match no feature or atom.
    """

    decompositions: list[Decomposition]
    holds: dict[str, Tensor]
    einstein: int


def decomposed(run: Run, arrays: dict[str, np.ndarray], codes_kept: bool) -> World:
    """Returns the decompositions; without `codes_kept` each latent gets another one's components.

    Einstein is the latent nearest to the first triple.
    """
    mixing, atoms, model = world(run)
    told = {name: torch.from_numpy(values) for name, values in arrays.items()}
    features, basis = model.dictionary.vectors.cpu(), atoms.vectors.cpu()
    codes = told["meta_codes"] if codes_kept else told["meta_codes"].roll(1, 0)
    tables = {SMALL: told["small"], ATOMS: basis, FEATURES: features}
    fires = (told[f"fires_{name}"] for name in ("latents", "small", "atoms", "features"))
    firing = dict(zip(TABLES, fires, strict=True))
    rows, made_of = told["rows"], mixing.cpu() > 0
    live = (rows != 0).any(1).nonzero()[:, 0].tolist()
    options: dict[str, Any] = {"tables": tables, "firing": firing, "n": N_NEIGHBOURS}
    found = [decompose(i, rows, told["meta_decoder"], codes, **options) for i in live]
    known, parts = torch.cat([basis, features]), torch.cat([torch.eye(len(basis)) > 0, made_of])

    def held(learned: Tensor) -> Tensor:
        cosine, which = (normalize(learned, dim=1) @ known.T).max(1)
        return parts[which] & (cosine > 0.9)[:, None]

    holds = {OBJECT: held(rows), SMALL: held(told["small"])}
    holds |= {ATOMS: torch.eye(len(basis)) > 0, FEATURES: made_of}
    first_triple = features[len(features) // 2]
    return World(found, holds, int((normalize(rows, dim=1) @ first_triple).argmax()))


def certificates(run: Run, arrays: dict[str, np.ndarray]) -> tuple[Tensor, Tensor]:
    """Returns for each atom that was found whether its neighbours are certified, and in order.

    Among the latents that match a feature (cosine above .9), which is what they are certified by.
    """
    mixing, atoms, model = world(run)
    truth, basis = model.dictionary.vectors.cpu().double(), atoms.vectors.cpu().double()
    rows, learned = (torch.from_numpy(arrays[n]).double() for n in ("rows", "meta_decoder"))
    cosine, which = (normalize(rows, dim=1) @ truth.T).max(1)
    rows, which = rows[cosine > 0.9], which[cosine > 0.9]
    cosine, found = (normalize(learned, dim=1) @ basis.T).max(0)
    here = cosine > 0.9
    learned, basis, holds = learned[found[here]], basis[here], mixing.cpu()[which][:, here] > 0
    certified = retrieval(
        basis,
        truth[which],
        holds,
        atom_errors=direction_errors(learned, basis),
        row_errors=direction_errors(rows, truth[which]),
    ).certified
    cosines = normalize(rows, dim=1) @ normalize(learned, dim=1).T
    least = cosines.masked_fill(~holds, torch.inf).amin(0)
    return certified, least > cosines.masked_fill(holds, -torch.inf).amax(0)


def own_atoms(world: World, latent: int) -> list[int | None]:
    """Returns, for each component of the latent, its nearest true atom if the latent holds it."""
    (found,) = (d for d in world.decompositions if d.latent == latent)
    atoms = [c.neighbours[ATOMS][0].row for c in found.components]
    return [a if bool(world.holds[OBJECT][latent, a]) else None for a in atoms]


def _runs(cfg: Config) -> list[Run]:
    sizes = (cfg.n_atoms, cfg.n_features, cfg.d_in, cfg.n_samples, cfg.n_rounds)
    return [Run(seed, *sizes) for seed in range(cfg.n_worlds)]


def compute(cfg: Config) -> dict[str, np.ndarray]:
    runs = _runs(cfg)
    results = map_cached(trained, runs)
    worlds = [decomposed(*pair, cfg.codes_kept) for pair in zip(runs, results, strict=True)]
    shape = (cfg.n_worlds, K_META, len(TABLES), N_NEIGHBOURS)
    cosines, filled = np.full(shape, np.nan), np.full(shape, np.nan)
    weights, p_values = np.zeros(shape[:2]), np.ones(shape[:2])
    einstein, atoms, latents = [], [], []
    for w, found in enumerate(worlds):
        for d in found.decompositions:
            own = own_atoms(found, d.latent)
            for i, (component, atom) in enumerate(zip(d.components, own, strict=True)):
                nearest = component.neighbours[OBJECT][0].row
                holds = atom is not None and bool(found.holds[OBJECT][nearest, atom])
                share = component.weight**2
                atoms.append((w, atom is not None, share))
                latents.append((w, holds, share))
                if d.latent != found.einstein:
                    continue
                einstein.append((w, atom is not None, 1.0))
                weights[w, i] = component.weight
                p_values[w, i] = component.neighbours[ATOMS][0].p_value
                for t, table in enumerate(TABLES):
                    near = component.neighbours[table]
                    cosines[w, i, t] = [n.cosine for n in near]
                    filled[w, i, t] = [
                        atom is not None and bool(found.holds[table][n.row, atom]) for n in near
                    ]
    orders = [certificates(*pair) for pair in zip(runs, results, strict=True)]
    n_held = np.repeat([2, 3], cfg.n_features // 2).mean()
    n_rows = (cfg.n_features - 1, cfg.n_atoms, cfg.n_atoms, cfg.n_features)
    return {
        "cosines_by_world": cosines,
        "holds_by_world": filled,
        "weights_by_world": weights,
        "p_values_by_world": p_values,
        "einstein_right_by_world": _by_world(einstein, cfg.n_worlds),
        "atoms_right_by_world": _by_world(atoms, cfg.n_worlds),
        "latents_right_by_world": _by_world(latents, cfg.n_worlds),
        "certified_by_world": np.array([float(sure.double().mean()) for sure, _ in orders]),
        "order_certified_by_world": np.array([_share(right[sure]) for sure, right in orders]),
        "order_other_by_world": np.array([_share(right[~sure]) for sure, right in orders]),
        # A row picked blindly: the triple's three atoms, a latent's own, a latent with the atom.
        "chance": np.array([3.0, n_held, n_held]) / cfg.n_atoms,
        "chance_cosines": np.array([_chance_cosine(n, cfg.d_in) for n in n_rows]),
    }


def _share(right: Tensor) -> float:
    return float(right.double().mean())  # NaN where there is none


def _by_world(triples: list[tuple[int, bool, float]], n_worlds: int) -> np.ndarray:
    """Returns the weighted share of True in each world; 0 where there is nothing."""
    total, right = np.zeros(n_worlds), np.zeros(n_worlds)
    for w, is_right, weight in triples:
        total[w] += weight
        right[w] += weight * is_right
    return right / np.maximum(total, 1e-12)


def _chance_cosine(n_rows: int, d_in: int) -> float:
    """Returns the cosine that the best of n_rows structureless rows exceeds with p = LEVEL."""
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    p_values = neighbour_p_values(grid[:, None], n_rows, d_in)[:, 0]
    return float(grid[(p_values > LEVEL).sum()])


def check(data: dict[str, np.ndarray], cfg: Config) -> dict[str, float]:
    shares = {name: data[f"{name}_right_by_world"] for name in ("einstein", "atoms", "latents")}
    margins = {"no share above 1": 1 - max(s.max() for s in shares.values())}
    margins["no cosine above 1"] = 1 + 1e-9 - np.nanmax(data["cosines_by_world"])
    margins["the triple's nearest atoms are all its own (median world)"] = (
        np.median(shares["einstein"]) - 1
    )
    # Exact p-values; twelve neighbours lead the table.
    p_values = np.median(data["p_values_by_world"].max(1))
    margins["its components are beyond chance, p below .01 / 12 (median world)"] = (
        0.01 / 12 - p_values
    )
    for name, chance, text in zip(
        ("atoms", "latents"),
        data["chance"][1:],
        ("nearest atoms are the latent's own", "nearest latents hold the component's atom"),
        strict=True,
    ):
        half_way = (1 + chance) / 2
        margins[f"{text}: half-way from chance to all (median world)"] = (
            np.median(shares[name]) - half_way
        )
    certified = data["certified_by_world"]
    margins["some atoms are certified"] = certified.max() - 1e-9
    margins["no certified atom has a wrong neighbour"] = (
        np.nanmin(data["order_certified_by_world"]) - 1
    )
    best = np.nanmedian(data["cosines_by_world"][..., 0], axis=(0, 1))
    margins["atoms are near (cosine above .9), object-level latents are not (below .8)"] = min(
        best[TABLES.index(ATOMS)] - 0.9, 0.8 - best[TABLES.index(OBJECT)]
    )
    return require(margins)


def broken(cfg: Config) -> dict[str, np.ndarray]:
    """The same computation with each latent given the components of another."""
    return compute(replace(cfg, codes_kept=False))


def plot(data: dict[str, np.ndarray]) -> Figure:
    fig, axes = plt.subplots(1, 6, figsize=(11.6, 2.9), width_ratios=[1, 1, 1, 1, 1.2, 0.9])
    heights = -np.arange(K_META)
    for t, (ax, name) in enumerate(zip(axes[:4], TABLES, strict=True)):
        for height, cosines, filled in zip(
            heights, data["cosines_by_world"][0, :, t], data["holds_by_world"][0, :, t], strict=True
        ):
            yes = filled == 1
            ax.plot(cosines[~yes], np.full((~yes).sum(), height), "o", mfc="none", color="#999999")
            ax.plot(cosines[yes], np.full(yes.sum(), height), "o", ms=6, color="#D55E00")
        ax.axvline(data["chance_cosines"][t], color="black", ls="--", lw=1)
        ax.set_xlim(0, 1.05)
        ax.set_ylim(-K_META + 0.5, 0.5)
        ax.set_title(name)
        ax.set_xlabel("cosine")
        ax.set_yticks(heights, [""] * K_META)
    weights = data["weights_by_world"][0]
    names = [f"component {i}\nweight {w:.2f}" for i, w in enumerate(weights, start=1)]
    axes[0].set_yticks(heights, names)
    last = axes[4]
    names = ("triple's\natoms", "all: own\natoms", "all: other\nlatents")
    for i, name in enumerate(("einstein", "atoms", "latents")):
        values = data[f"{name}_right_by_world"]
        last.plot(i + np.linspace(-0.2, 0.2, len(values)), values, "o", color="#D55E00", ms=3.5)
        middle, chance = np.median(values), data["chance"][i]
        last.plot([i - 0.3, i + 0.3], [middle, middle], color="#D55E00", lw=2)
        last.plot([i - 0.3, i + 0.3], [chance, chance], color="black", ls="--", lw=1)
    last.set_xticks(range(3), names)
    last.set_ylim(0, 1.05)
    last.set_title("share right, over worlds")
    last.set_xlabel("nearest row of a component")
    _draw_order(axes[5], data)
    dots = [
        Line2D([], [], marker="o", ls="", color="#D55E00", label="holds the component's atom"),
        Line2D([], [], marker="o", ls="", mfc="none", color="#999999", label="does not"),
        Line2D([], [], color="black", ls="--", lw=1, label="chance"),
    ]
    fig.legend(handles=dots, loc="outside lower center", ncols=3)
    return fig


def _draw_order(ax: Axes, data: dict[str, np.ndarray]) -> None:
    names = ("certified", "other")
    for i, name in enumerate(names):
        values = data[f"order_{name}_by_world"]
        ax.plot(i + np.linspace(-0.2, 0.2, len(values)), values, "o", color="#0072B2", ms=3.5)
        middle = np.nanmedian(values)
        ax.plot([i - 0.3, i + 0.3], [middle, middle], color="#0072B2", lw=2)
    share = float(np.median(data["certified_by_world"]))
    ax.set_xticks(range(2), [f"certified\n({share:.0%})", f"other\n({1 - share:.0%})"])
    ax.set_xlim(-0.6, 1.6)
    ax.set_ylim(0, 1.05)
    ax.set_title("neighbours in order")
    ax.set_xlabel("atoms")


def page(cfg: Config) -> str:
    """Returns the page on which one clicks from latent to component to neighbour: world 0."""
    run = _runs(cfg)[0]
    found = decomposed(run, cached(trained, run), cfg.codes_kept)

    @cache
    def name(table: str, row: int) -> str:
        held = " + ".join(str(a) for a in found.holds[table][row].nonzero()[:, 0].tolist())
        what = {OBJECT: "latent", SMALL: "latent", ATOMS: "atom", FEATURES: "feature"}[table]
        made_of = f" (atoms {held})" if held and table != ATOMS else ""
        return f"{what} {row}{made_of}"

    shown = []
    for d in found.decompositions:
        entry: dict[str, Any] = d.as_dict() | {"name": name(OBJECT, d.latent)}
        for component, atom in zip(entry["components"], own_atoms(found, d.latent), strict=True):
            for table, neighbours in component["neighbours"].items():
                for n in neighbours:
                    holds = atom is not None and bool(found.holds[table][n["row"], atom])
                    n |= {"name": name(table, n["row"]), "known": holds}
        shown.append(entry)
    return einstein_page("What latents are made of", shown, first=found.einstein)
