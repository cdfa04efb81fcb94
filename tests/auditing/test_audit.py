"""The whole audit: its figures, and the same bits however it is run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from memfast import NeuronStatistics, PromptSet
from memfast.auditing import audit, merge
from memfast.auditing.looking.combining import COMBINATIONS
from memfast.auditing.looking.settings import Settings
from memfast.auditing.looking.worker import Block, Worker
from memfast.auditing.storing import manifest
from memfast.auditing.storing.blocks import Blocks
from memfast.auditing.verifying import compare
from memfast.cli import main
from memfast.errors import InputError
from memfast.measuring.distances import ssim
from memfast.measuring.index import ImageIndex, index_images
from memfast.memory.portions import Portion
from memfast.pipelines import fitting
from memfast.pipelines.drivers.alpha_bar.stable_diffusion import EMBEDDINGS, StableDiffusion
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.drivers.table import driver_of
from memfast.prompts import Prompt, make_prompt
from memfast.selection import Subspace
from tests.auditing.conftest import REFERENCE, TEXTS, bits

_KEPT: list[Path] = []  # an undisturbed run, made once for all tests


@pytest.fixture
def whole(
    tiny_pipeline, lists, settings, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """What an undisturbed run writes; a copy of it lies in tmp_path / "whole"."""
    if not _KEPT:
        out = tmp_path_factory.mktemp("audit") / "whole"
        audit(tiny_pipeline, lists[0], out, reference=lists[1], settings=settings)
        _KEPT.append(out)
    shutil.copytree(_KEPT[0], tmp_path / "whole")
    return bits(tmp_path / "whole")


def test_what_is_written(tiny_pipeline, lists, settings, tmp_path: Path) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_pipeline.unet.state_dict().items()}
    prompts = PromptSet.of(
        Prompt(str(i), text, label=("x75", "x1")[i % 2], group=f"g{i // 2}")
        for i, text in enumerate([*TEXTS[:20], TEXTS[3], TEXTS[10]])
    )
    out = tmp_path / "out"
    outcome = audit(tiny_pipeline, prompts, out, reference=lists[1], settings=settings, fpr=0.1)
    assert outcome is not None
    table = pq.read_table(out / "scores.parquet").to_pydict()
    assert table["prompt"] == prompts.texts
    assert sorted(table["rank"]) == list(range(1, 23))
    for column in ("relative", "norm", "change", "energy", "combined", "distance"):
        values = np.array(table[column])
        assert np.isfinite(values).all()
        assert len(set(values)) == 20  # all differ, but for the two duplicated prompts
        assert values[20] == values[3]
        assert values[21] == values[10]
    threshold = json.loads((out / "summary.json").read_text())["thresholds"]["distance"]
    assert table["flagged"] == [value > threshold for value in table["distance"]]
    best = table["rank"].index(1)
    assert table["distance"][best] == max(table["distance"])
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["prompts"], summary["texts"], summary["rejected"]) == (22, 20, 0)
    assert summary["flagged"] == sum(table["flagged"])
    assert set(summary["detection"]) == {"relative", "norm", "change", "energy", *COMBINATIONS}
    figures = summary["detection"]["relative"]["x75"]
    assert (figures["positives"], figures["negatives"]) == (10, 10)
    positive, negative = (
        [
            value
            for value, given in zip(table["relative"][:20], table["label"], strict=False)
            if given == label
        ]
        for label in ("x75", "x1")
    )
    assert figures["auc"]["value"] == np.mean([a > b for a in positive for b in negative])
    for name, tensor in tiny_pipeline.unet.state_dict().items():
        assert torch.equal(tensor, state[name])


def test_statistics_are_those_of_the_first_look(tiny_pipeline, lists, settings, tmp_path) -> None:
    audit(tiny_pipeline, lists[0], tmp_path / "out", reference=lists[1], settings=settings)
    found = NeuronStatistics.load(tmp_path / "out" / "statistics.safetensors")
    assert found.steps == 1
    expected = 0.0
    own = driver_of(tiny_pipeline).schedule().as_dict()
    with Worker(tiny_pipeline, replace(settings, **own)) as worker:
        for start in range(0, 20, 6):
            for rows, by_noise in worker.looks(
                [make_prompt(text) for text in TEXTS[start : min(start + 6, 20)]]
            ):
                for looks in by_noise:
                    expected = expected + looks[0].norms[: len(rows)].square().sum(0)
    norms = torch.cat([found[site].l2_norm[0] for site in found])
    torch.testing.assert_close(norms.square(), expected, rtol=1e-5, atol=0)  # of float32 sums


def test_the_same_command_resumes(tiny_pipeline, lists, settings, tmp_path, whole) -> None:
    """Stopped in every block in turn, it goes on where it was."""
    out, computed = tmp_path / "out", []
    original = Blocks.write

    class Killed(BaseException):
        pass

    def write_one(self: Blocks, number: int, block: Block) -> None:
        original(self, number, block)
        computed.append(number)
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Blocks, "write", write_one)
        for _ in range(4):
            with pytest.raises(Killed):
                audit(tiny_pipeline, lists[0], out, reference=lists[1], settings=settings)
    audit(tiny_pipeline, lists[0], out, reference=lists[1], settings=settings)
    assert computed == [0, 1, 2, 3]
    assert bits(out) == whole


def test_shards_are_merged(tiny_pipeline, lists, settings, tmp_path, whole) -> None:
    out = tmp_path / "out"
    arguments = {"reference": lists[1], "settings": settings}
    assert audit(tiny_pipeline, lists[0], out, shard=(2, 3), **arguments) is None
    assert audit(tiny_pipeline, lists[0], out, shard=(0, 3), **arguments) is None
    with pytest.raises(InputError, match="1 blocks are missing"):
        merge(out)
    audit(tiny_pipeline, lists[0], out, shard=(1, 3), **arguments)
    outcome = merge(out)
    assert outcome.summary["texts"] == 20
    assert bits(out) == whole


def test_a_list_that_has_moved_is_named(
    tiny_pipeline, lists, settings, tmp_path, whole, monkeypatch
) -> None:
    out, moved, edited = (tmp_path / name for name in ("out", "moved.jsonl", "edited.jsonl"))
    how = {"reference": lists[1], "settings": settings, "shard": (0, 1)}
    assert audit(tiny_pipeline, lists[0], out, **how) is None
    lists[0].rename(moved)
    edited.write_text(moved.read_text().replace("cat", "dog"))

    def merged(*more: object) -> object:
        monkeypatch.setattr("sys.argv", ["memfast", "merge", str(out), *map(str, more)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code

    with pytest.raises(InputError, match=r"prompts\.jsonl: .* pass them \(--prompts\)"):
        merge(out)
    assert merged("--prompts", edited) == 2
    assert not (out / "scores.parquet").exists()
    assert merged("--prompts", moved) == 0
    assert bits(out) == whole


@pytest.mark.parametrize("batch_size", [5, 1000])
def test_the_batch_leaves_no_trace(
    tiny_pipeline, lists, settings, tmp_path, whole, batch_size: int
) -> None:
    audit(
        tiny_pipeline,
        lists[0],
        tmp_path / "out",
        reference=lists[1],
        settings=settings,
        batch_size=batch_size,
    )
    assert bits(tmp_path / "out") == whole


def test_out_of_memory_leaves_no_trace(tiny_pipeline, lists, settings, tmp_path, whole) -> None:
    """Memory that runs out now and then, until one unit at a time is left."""
    forward, calls = tiny_pipeline.unet.forward, [0]

    def failing(*args, **kwargs):
        calls[0] += 1
        if calls[0] in (9, 50, 70):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    tiny_pipeline.unet.forward = failing
    audit(tiny_pipeline, lists[0], tmp_path / "out", reference=lists[1], settings=settings)
    assert calls[0] > 70
    assert bits(tmp_path / "out") == whole


def test_too_little_memory_for_one_unit_is_said(tiny_pipeline, lists, settings, tmp_path) -> None:
    forward = tiny_pipeline.unet.forward

    def failing(sample, *args, **kwargs):
        if len(sample) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(sample, *args, **kwargs)

    tiny_pipeline.unet.forward = failing
    with pytest.raises(InputError, match=r"out of memory with 4 prompts a call.*--unit"):
        audit(tiny_pipeline, lists[0], tmp_path / "out", reference=lists[1], settings=settings)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"settings": Settings(probe="first", block_size=6, unit=4)}, "probe was 'jump', now"),
        ({"settings": Settings(probe="jump", seed=1, noises=2, block_size=6, unit=4)}, "seed"),
        ({"reference": [*REFERENCE[1:], "b b b"]}, "reference was"),
        ({"memorized": ["cat cat cat", "dog dog dog"]}, "scores was"),
        ({"prompts": TEXTS[:19]}, "prompts was"),
    ],
)
def test_other_settings_are_refused(
    tiny_pipeline, lists, settings, tmp_path, whole, change: dict, says: str
) -> None:
    arguments = {"prompts": lists[0], "reference": lists[1], "settings": settings} | change
    with pytest.raises(InputError, match=f"holds another audit: {says}"):
        audit(tiny_pipeline, out=tmp_path / "whole", **arguments)
    assert bits(tmp_path / "whole") == whole


def test_a_unit_that_nobody_names_is_the_one_begun_with(
    tiny_pipeline, lists, settings, tmp_path, whole, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, out = replace(settings, unit=None), tmp_path / "whole"
    for block in (out / "blocks").glob("block-*1*"):
        block.unlink()
    audit(tiny_pipeline, lists[0], out, reference=lists[1], settings=own)
    assert bits(out) == whole
    monkeypatch.setitem(fitting.FILLING, "cpu", 64)
    monkeypatch.setattr(Driver, "portion", lambda driver, useful: Portion(20))
    audit(tiny_pipeline, lists[0], tmp_path / "new", reference=lists[1], settings=own)
    assert manifest.unit_of(tmp_path / "new") == 16


def test_overwriting_starts_anew(tiny_pipeline, lists, settings, tmp_path, whole) -> None:
    other = Settings(probe="first", block_size=6, unit=4, threads=1)
    out, arguments = tmp_path / "whole", {"reference": lists[1], "overwrite": True}
    audit(tiny_pipeline, lists[0], out, settings=other, **arguments)
    assert bits(out) != whole
    audit(tiny_pipeline, lists[0], out, settings=settings, **arguments)
    assert bits(out) == whole


def test_another_model_is_refused(tiny_pipeline, lists, settings, tmp_path, whole) -> None:
    with torch.no_grad():
        for parameter in tiny_pipeline.unet.parameters():
            parameter.mul_(1.01)
    with pytest.raises(InputError, match="holds another audit: model was"):
        audit(tiny_pipeline, lists[0], tmp_path / "whole", reference=lists[1], settings=settings)


def test_a_damaged_block_is_computed_again(tiny_pipeline, lists, settings, tmp_path, whole) -> None:
    out = tmp_path / "whole"
    path = out / "blocks" / "block-000002.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"1 blocks are missing \(the first is 2\)"):
        merge(out)
    audit(tiny_pipeline, lists[0], out, reference=lists[1], settings=settings)
    assert bits(out) == whole


def test_a_full_disk_is_one_line(tiny_pipeline, lists, settings, tmp_path, monkeypatch) -> None:
    def full(path, tensors, header):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memfast.auditing.storing.blocks.save_tensors", full)
    with pytest.raises(InputError, match=r"No space left on device.*no finished block is lost"):
        audit(tiny_pipeline, lists[0], tmp_path / "out", reference=lists[1], settings=settings)


def test_bad_rows_are_counted_and_written(tiny_pipeline, lists, settings, tmp_path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(lists[0].read_bytes() + b'{"prompt": ""}\nnonsense\n{"prompt": "b\xe9"}\n')
    arguments = {"reference": lists[1], "settings": settings}
    outcome = audit(tiny_pipeline, path, tmp_path / "out", **arguments)
    assert outcome is not None
    assert outcome.summary["rejected"] == 3
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in lines] == [23, 24, 25]
    with pytest.raises(InputError, match="more than 2 bad rows"):
        audit(tiny_pipeline, path, tmp_path / "new", max_rejected=2, **arguments)
    assert not (tmp_path / "new").exists()


def test_what_the_model_cannot_do_is_told(tiny_pipeline, settings, tmp_path, monkeypatch) -> None:
    """Truncated prompts are counted; scores that are not finite rank last and flag nothing."""
    embed = StableDiffusion.embed
    poison = driver_of(tiny_pipeline).prepare([TEXTS[5]])["input_ids"]

    def poisoned(self, tokens):
        told = embed(self, tokens)
        told.leaves[EMBEDDINGS][(tokens["input_ids"] == poison).all(1)] = torch.nan
        return told

    monkeypatch.setattr(StableDiffusion, "embed", poisoned)
    prompts = [*TEXTS[:12], "a " * 30]
    outcome = audit(
        tiny_pipeline, prompts, tmp_path / "out", reference=REFERENCE, settings=settings
    )
    assert outcome is not None
    assert outcome.summary["truncated"] == 1
    assert outcome.summary["not_finite"] == 1
    table = pq.read_table(tmp_path / "out" / "scores.parquet").to_pydict()
    assert table["truncated"] == [False] * 12 + [True]
    assert table["rank"][5] == 13
    assert not table["flagged"][5]
    found = NeuronStatistics.load(tmp_path / "out" / "statistics.safetensors")
    assert all(found[site].mean.isfinite().all() for site in found)


def test_located_neurons_and_examples_bring_scores(tiny_pipeline, settings, tmp_path) -> None:
    from memfast import ffn_sites

    sites = ffn_sites(tiny_pipeline.unet)
    masks = {site: torch.arange(neurons) < 5 for site, neurons in sites.items()}
    outcome = audit(
        tiny_pipeline,
        PromptSet.of(TEXTS[:12]),
        tmp_path / "out",
        reference=REFERENCE,
        memorized=["cat cat cat", "dog dog dog"],
        subspace=Subspace(neurons=masks),
        settings=settings,
        score="discriminant",
    )
    assert outcome is not None
    names = ["norm", "relative", "change", "energy", "located", "discriminant"]
    assert outcome.result.columns == [*names, *COMBINATIONS]
    assert outcome.result.score == "discriminant"


def test_rows_are_spent_where_the_first_look_is_far(tiny_pipeline, settings, tmp_path) -> None:
    """Adaptive scores are those of looking at all levels, for the prompts that earn it, and of the
    last level alone for the others; the same bits after an interruption."""
    plain = replace(settings, probe="levels", path=(0.6, 0.3, 0.05), noises=1)
    ways = {
        "every": plain,
        "some": replace(plain, adaptive=0.3),
        "one": replace(plain, path=(0.05,)),
    }
    found = {}
    for name, chosen in ways.items():
        given = {"reference": REFERENCE, "settings": chosen}
        outcome = audit(tiny_pipeline, TEXTS[:30], tmp_path / name, **given)
        assert outcome is not None
        found[name] = outcome.result
    names = ["relative@0.6", "relative@0.3", "relative@0.05", "energy"]
    assert found["some"].columns == [*names, *COMBINATIONS]
    full, seen = (
        np.stack([found[way].column(name) for name in names], 1) for way in ("every", "some")
    )
    earned = np.isfinite(seen[:, 0])
    assert 0 < earned.sum() < 30
    np.testing.assert_array_equal(seen[earned], full[earned])
    np.testing.assert_array_equal(seen[:, 2:], full[:, 2:])
    assert np.isnan(seen[~earned, :2]).all()
    for way, rows in (("every", earned), ("one", ~earned)):
        one, other = found["some"].deciding[rows], found[way].deciding[rows]
        np.testing.assert_allclose(one, other, rtol=1e-12)  # a power's last bit is of its place
    alone = found["one"].deciding
    assert alone[~earned].max() < alone[earned].min()
    summary = json.loads((tmp_path / "some" / "summary.json").read_text())
    assert summary["looked_at_all_levels"] == earned.sum()
    assert summary["not_finite"] == 0
    before = bits(tmp_path / "some")
    (tmp_path / "some" / "blocks" / "block-000001.safetensors").unlink()
    (tmp_path / "some" / "scores.parquet").unlink()
    given = {"reference": REFERENCE, "settings": ways["some"], "batch_size": 4}
    audit(tiny_pipeline, TEXTS[:30], tmp_path / "some", **given)
    assert bits(tmp_path / "some") == before


@pytest.mark.parametrize(
    "change",
    [
        {"adaptive": 0.0},
        {"adaptive": 0.1, "probe": "jump"},
        {"adaptive": 0.1, "probe": "levels", "path": (0.05,)},
        {"adaptive": 0.1, "probe": "levels", "path": (0.3, 0.05), "noises": 2},
    ],
)
def test_adaptive_needs_levels_and_one_noise(change: dict) -> None:
    with pytest.raises(InputError, match="adaptive"):
        Settings(**change)


@pytest.mark.parametrize(
    ("label", "says"), [("x75", "say memorized, none not"), ("x1", "say not memorized, none mem")]
)
def test_labels_of_one_class_are_told(
    tiny_pipeline, settings, tmp_path, label: str, says: str
) -> None:
    prompts = PromptSet.of(Prompt(text, text, label=label) for text in TEXTS[:12])
    outcome = audit(
        tiny_pipeline, prompts, tmp_path / "out", reference=REFERENCE, settings=settings
    )
    assert outcome is not None
    assert f"all labels ('{label}') {says}" in outcome.summary["labels"]
    assert not outcome.summary["detection"]["relative"]


def test_levels_have_parts_and_combinations(tiny_pipeline, settings, tmp_path) -> None:
    settings = replace(settings, probe="levels", path=(0.4, 0.05))
    outcome = audit(
        tiny_pipeline,
        TEXTS[:12],
        tmp_path / "out",
        reference=REFERENCE,
        settings=settings,
        score="mean",
    )
    assert outcome is not None
    names = ["norm", "relative", "change", "energy", "relative@0.4", "relative@0.05"]
    assert outcome.result.columns == [*names, *COMBINATIONS]
    parts = [outcome.result.values[:, names.index(name)] for name in names]
    np.testing.assert_allclose(parts[1], (parts[4] + parts[5]) / 2)
    alone = replace(settings, probe="jump", path=(0.05,))
    single = audit(tiny_pipeline, TEXTS[:12], tmp_path / "one", reference=REFERENCE, settings=alone)
    assert single is not None
    np.testing.assert_array_equal(single.result.column("relative"), parts[5])


def test_without_a_reference_its_own_prompts_stand_in(tiny_pipeline, settings, tmp_path) -> None:
    outcome = audit(tiny_pipeline, TEXTS[:30], tmp_path / "out", settings=settings, fpr=0.1)
    assert outcome is not None
    assert outcome.manifest["reference"] == {"prompts": 30, "own": True}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"score": "nonsense"}, "must be one of norm, relative, change, energy, combined, mean"),
        ({"score": "located"}, "must be one of norm, relative, change, energy, combined, mean"),
        ({"engine": "dask"}, "must be one of local, ray"),
        ({"engine": "ray"}, "give its folder or hub id"),
        ({"fpr": 1.0}, "between 0 and 1"),
        ({"shard": (3, 3)}, "I from 0 to N-1"),
        ({"reference": REFERENCE[:5]}, "5 prompts are too few"),
        ({"reference": REFERENCE, "prompts": REFERENCE[::-1]}, "reference: is the audited list"),
        ({"memorized": ["cat cat cat"]}, "one example is too few"),
        ({"memorized": [REFERENCE[0], "b b b"]}, "memorized and reference share 1 prompts"),
        ({"prompts": []}, "holds no prompt"),
        ({"prompts": "nowhere.txt"}, "no such file"),
        (
            {"settings": Settings(probe="leap")},
            "must be one of first, settle, jump, levels, shared, walk",
        ),
    ],
)
def test_bad_input_writes_nothing(
    tiny_pipeline: StableDiffusionPipeline, settings, tmp_path: Path, change: dict, says: str
) -> None:
    arguments = {"prompts": TEXTS[:12], "reference": REFERENCE, "settings": settings} | change
    with pytest.raises(InputError, match=says):
        audit(tiny_pipeline, out=tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_other_prompts_are_not_merged(tiny_pipeline, lists, settings, tmp_path, whole) -> None:
    with pytest.raises(InputError, match="are not those"):
        merge(tmp_path / "whole", TEXTS)
    with pytest.raises(InputError, match=r"has no manifest\.json"):
        merge(tmp_path)


def test_a_second_look_makes_pictures(tiny_pipeline, settings, tmp_path: Path) -> None:
    own = tmp_path / "own.png"
    Image.new("RGB", (16, 16), (200, 30, 30)).save(own)
    prompts = PromptSet.of(Prompt(str(i), text, str(own)) for i, text in enumerate(TEXTS[:12]))
    outcome = audit(
        tiny_pipeline,
        prompts,
        tmp_path / "out",
        reference=REFERENCE,
        settings=settings,
        verify=0.2,
        verify_seeds=3,
    )
    assert outcome is not None
    assert [item.rank for item in outcome.verified] == [1, 2, 3]
    assert len(list((tmp_path / "out" / "pictures").glob("*-[0-2].png"))) == 9
    assert len(list((tmp_path / "out" / "pictures").glob("*-training.png"))) == 3
    for item in outcome.verified:
        assert item.images.shape == (3, 3, 16, 16)
        assert item.own_ssim == pytest.approx(
            max(float(ssim(image[None], item.own[None])) for image in item.images)
        )
    found = json.loads((tmp_path / "out" / "verified.json").read_text())
    assert [item["prompt"] for item in found] == [item.prompt for item in outcome.verified]


def test_a_second_look_finds_copies_of_any_image_of_an_index(
    tiny_pipeline, settings, tmp_path: Path
) -> None:
    """No caption names its training image; the index holds one that the model makes."""
    how = {"reference": REFERENCE, "settings": settings, "verify": 0.2, "verify_seeds": 2}
    first = audit(tiny_pipeline, TEXTS[:12], tmp_path / "first", **how)
    assert first is not None
    pictures = sorted((tmp_path / "first" / "pictures").glob("000001-*.png"))
    index_images(pictures, tmp_path / "index", "efficientnet-lite0-spatial")
    index = ImageIndex.open(tmp_path / "index")
    found = audit(tiny_pipeline, TEXTS[:12], tmp_path / "second", index=index, **how)
    assert found is not None
    assert first.verified[0].matches_training is None
    assert found.verified[0].copied == str(pictures[0])
    assert found.verified[0].matches_training is True
    assert found.summary["copies_in_index"] == sum(v.copied is not None for v in found.verified)
    assert found.summary["matches_training"] == found.summary["copies_in_index"]


def test_seeds_that_agree_make_what_other_captions_do_not() -> None:
    """A planted case: three images of four are one picture, the training image's."""
    random = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = torch.stack([random[0], random[0] + 0.01, random[1], random[0]]).clamp(0, 1)
    row = {"rank": 1, "id": "x", "prompt": "x", "asked": Prompt("x", "x")}
    others = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    found = compare(row, images, others)
    assert found.clique == 0.75
    assert found.seeds_agree is True
    assert found.matches_training is None
    blobs = compare(row, images, random[:1].expand(8, -1, -1, -1) + 0.005)
    assert blobs.clique == 0.75
    assert blobs.seeds_agree is False
    assert compare(row, images, others[:3]).seeds_agree is None
    apart = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert compare(row, apart, others).clique == 0.25
    assert compare(row, apart, others).seeds_agree is False


@pytest.mark.parametrize("nearest", [0, 3])
def test_an_image_matches_its_training_image(tmp_path: Path, nearest: int) -> None:
    """One seed of four made it: seeds do not agree, and the match is seen all the same."""
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    pixels = (images[nearest] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(tmp_path / "own.png")
    row = {
        "rank": 1,
        "id": "x",
        "prompt": "x",
        "asked": Prompt("x", "x", str(tmp_path / "own.png")),
    }
    others = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    found = compare(row, images, others)
    assert (found.seeds_agree, found.matches_training) == (False, True)
    assert compare(row, others[:4], images[:nearest]).matches_training is False


def test_another_machine_goes_on(tiny_pipeline, lists, settings, tmp_path, whole, caplog) -> None:
    """Device, dtype and threads are told, and refuse nothing: the scores agree to rounding."""
    out = tmp_path / "whole"
    before = pq.read_table(out / "scores.parquet")["relative"].to_numpy()
    (out / "blocks" / "block-000001.safetensors").unlink()
    tiny_pipeline.unet.to(torch.float64)
    tiny_pipeline.text_encoder.to(torch.float64)
    other = replace(settings, threads=2)
    outcome = audit(tiny_pipeline, lists[0], out, reference=lists[1], settings=other)
    assert outcome is not None
    assert "blocks are of another machine (dtype was 'float32', now 'float64')" in caplog.text
    machines = outcome.summary["made_on"]
    assert [machine["dtype"] for machine in machines] == ["float32", "float64"]
    assert [machine["threads"] for machine in machines] == [1, 2]
    assert sum(machine["blocks"] for machine in machines) == len(list((out / "blocks").iterdir()))
    np.testing.assert_allclose(pq.read_table(out / "scores.parquet")["relative"], before, rtol=1e-4)
