"""The subspace study: shapes, controls, and that it finds what was planted."""

import pytest
import torch
from memfast_kernels import column_moments

from memfast.blocks.families import ffn_sites
from memfast.choosing.subspace_study import MEMORIZED, MIXED, RANDOM, REFERENCE, study_overlap
from memfast.errors import InputError
from memfast.files import atomic_write_json
from memfast.report.overlap import overlap_table, page
from memfast.report.stored import Stored
from memfast.statistics import NeuronStatistics

STEPS, SETS = 2, 4


def planted(model, seed: int, loud: slice) -> NeuronStatistics:
    """Statistics of random rows in which the neurons `loud` of every site are twice as strong."""
    generator = torch.Generator().manual_seed(seed)
    moments = {}
    for path, neurons in ffn_sites(model).items():
        rows = torch.randn(STEPS * 20, neurons, generator=generator)
        rows[:, loud] *= 2
        moments[path] = column_moments(rows, segment_rows=20)
    return NeuronStatistics(moments, {"prompt_ids": [str(seed)], "text_ids": [str(seed)]})


@pytest.fixture
def unet(tiny_pipeline):
    return tiny_pipeline.unet


def run(unet, memorized: list[slice], reference: list[slice], **how):
    sets = [
        [planted(unet, offset + n, loud) for n, loud in enumerate(places)]
        for offset, places in ((0, memorized), (100, reference))
    ]
    return study_overlap(*sets, planted(unet, 999, slice(0, 0)), unet, fraction=0.1, **how)


SHARED = [slice(0, 16)] * SETS
APART = [slice(16 * n, 16 * n + 16) for n in range(1, SETS + 1)]


@pytest.mark.parametrize("rule", ["paper", "neurons"])
def test_a_planted_subspace_is_found_and_its_absence_too(unet, rule):
    study = run(unet, SHARED, APART, rule=rule)
    assert study.verdict.more_shared
    assert "is more shared" in study.sentence
    assert float(study.arms[MEMORIZED].iou.mean()) > 2 * float(study.arms[REFERENCE].iou.mean())
    alike = run(unet, SHARED, SHARED, rule=rule)
    assert not alike.verdict.more_shared
    assert "is not more shared" in alike.sentence


def test_arms_have_their_pairs_sites_and_steps(unet):
    study = run(unet, SHARED, APART, rule="neurons", over_steps="union")
    sites = len(ffn_sites(unet))
    for name, arm in study.arms.items():
        pairs = SETS**2 if name == MIXED else SETS * (SETS - 1) // 2
        assert arm.counts.shape == (pairs, sites, STEPS + 1, 2)
    matrix = study.iou
    assert torch.equal(matrix, matrix.T)
    assert matrix.diagonal().tolist() == [1.0] * 2 * SETS


def test_random_masks_overlap_by_chance(unet):
    study = run(unet, SHARED, APART, rule="paper")
    density = study.arms[RANDOM].counts[:, :, -1, 1].double().mean()
    assert density > 0
    found = float(study.arms[RANDOM].iou.mean())
    share = 0.1  # of each row at most; independent masks of share p overlap at p / (2 - p)
    assert 0 < found < 2 * share / (2 - share)


def test_as_many_sets_of_each_kind(unet):
    with pytest.raises(InputError, match="two or more, as many of each kind"):
        run(unet, SHARED[:1], APART[:1])
    with pytest.raises(InputError, match="not 4 and 3"):
        run(unet, SHARED, APART[:3])


def test_the_report_shows_every_arm(unet, tmp_path):
    study = run(unet, SHARED, APART, rule="neurons")
    atomic_write_json(tmp_path / "summary.json", {"rule": "neurons"} | study.summary())
    html = page(Stored(tmp_path)).html()
    assert study.sentence.replace("'", "&#39;") in html
    _, rows = overlap_table(study.summary())
    assert [row[0] for row in rows] == list(study.arms)
    assert study.summary()["p"] == study.verdict.p
