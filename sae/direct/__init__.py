"""Meta-SAEs trained directly: dictionaries whose rows are mixtures of atoms, fitted to the data.

found = product_dictionary(x, held_out=y, n_latents=160, n_meta=64, k=5, k_meta=3, generator=g)
sae, meta_sae = found.sae(x, 2, generator=g), found.meta_sae(generator=g)

What each procedure satisfies of a two-level model is said in five letters, which docs/glossary.md
spells out: S1 small error, S2 few latents a sample, S3 rows that are sparse non-negative mixtures
of atoms, S4 atoms that are determined, S5 a shorter message than the rows alone.
"""

from sae.direct.baselines import held_out_meta_fve, nearest_composite
from sae.direct.encoder import fit_encoder
from sae.direct.gradient import descend, gradient_product
from sae.direct.meta_dictionary import MetaDictionary, meta_dictionary
from sae.direct.object_rows import object_rows, refine_rows
from sae.direct.penalty import Penalised, train_penalised
from sae.direct.procedure import product_dictionary, product_from_rows
from sae.direct.product import ProductDictionary, Round
from sae.direct.pursuit import nonnegative_omp
from sae.direct.tie import Tied, train_tied

__all__ = [
    "MetaDictionary",
    "Penalised",
    "ProductDictionary",
    "Round",
    "Tied",
    "descend",
    "fit_encoder",
    "gradient_product",
    "held_out_meta_fve",
    "meta_dictionary",
    "nearest_composite",
    "nonnegative_omp",
    "object_rows",
    "product_dictionary",
    "product_from_rows",
    "refine_rows",
    "train_penalised",
    "train_tied",
]
