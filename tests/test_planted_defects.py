"""Defects planted one at a time in a copy of the project: each named test file must catch its own.

A defect is a replacement of one piece of source text. The test fails if the text is no longer there
(the list has gone stale) or if the named file passes with the defect in place.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("toymodels", "sae", "theory", "figures", "paper", "tests", "pyproject.toml")
COPIED += ("README.md", "CONTRIBUTING.md", "Makefile", "constraints.txt", "CITATION.cff", "LICENSE")


@dataclass(frozen=True)
class Defect:
    """`old` becomes `new` in `file`; `caught_by` must then fail."""

    name: str
    file: str
    old: str
    new: str
    caught_by: str


DEFECTS = (
    Defect(
        "features fire 10 % less often than declared",
        "toymodels/product_law.py",
        "IndependentFiring(self.firing_probs())",
        "IndependentFiring(0.9 * self.firing_probs())",
        "tests/test_laws.py",
    ),
    Defect(
        "a carrier and its property are declared independent",
        "toymodels/distributions/rare_property.py",
        "return product + torch.cat([extra * v[n:], extra * v[:n]])",
        "return product",
        "tests/test_laws.py",
    ),
    Defect(
        "geometric gaps are one too long",
        "toymodels/events.py",
        "gaps.clamp_(max=n_trials).add_(1).cumsum_(0)",
        "gaps.clamp_(max=n_trials).add_(2).cumsum_(0)",
        "tests/test_toymodels.py",
    ),
    Defect(
        "streams differ in 32 bits only",
        "toymodels/streams.py",
        "words[:] = sequence.generate_state(_MT_WORDS)",
        "pass",
        "tests/test_toymodels.py",
    ),
    Defect(
        "train_meta drops the weights",
        "sae/meta.py",
        "weights.to(device=rows.device, dtype=torch.float64).cumsum(0)",
        "torch.ones_like(weights).to(torch.float64).cumsum(0)",
        "tests/test_meta.py",
    ),
    Defect(
        "the auxiliary residual is not detached",
        "sae/architectures/topk.py",
        "(x - output.x_hat).detach()",
        "(x - output.x_hat)",
        "tests/test_sae_laws.py",
    ),
    Defect(
        "members of an ensemble see different batches",
        "sae/engines/eager.py",
        "x = batch.to(member.sae.W_dec.dtype)",
        "x = batch.to(member.sae.W_dec.dtype)[: None if member is self.members[0] else -1]",
        "tests/test_train.py",
    ),
    Defect(
        "the decoder is not normalised after a step",
        "sae/engines/eager.py",
        "        self.optimizer.step()\n        self.sae.normalise_decoder_()\n",
        "        self.optimizer.step()\n",
        "tests/test_sae_laws.py",
    ),
    Defect(
        "nu lacks the number of supports",
        "theory/isotropic.py",
        "log_count = _log_binomial(m, k)\n    if log_count > 660:",
        "log_count = math.log(m / k)\n    if log_count > 660:",
        "tests/test_isotropic.py",
    ),
    Defect(
        "the ray score is not clipped at 0",
        "theory/recovery.py",
        "(similarity.clamp(min=0) if signed else similarity.abs())",
        "(similarity if signed else similarity.abs())",
        "tests/test_recovery.py",
    ),
    Defect(
        "the store does not verify checksums",
        "sae/entry.py",
        'if record["arrays_sha256"] != hashlib.sha256(data).hexdigest():',
        "if False:",
        "tests/test_store.py",
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_defect_is_caught(defect, tmp_path):
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            made = shutil.ignore_patterns("out", "generated", "build", "__pycache__")
            shutil.copytree(source, tmp_path / name, ignore=made)
        else:
            shutil.copy(source, tmp_path / name)
    target = tmp_path / defect.file
    text = target.read_text()
    assert text.count(defect.old) == 1, f"{defect.file} no longer holds this text exactly once"
    target.write_text(text.replace(defect.old, defect.new))
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", defect.caught_by]
    environment = {**os.environ, "HYPOTHESIS_PROFILE": "ci", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
