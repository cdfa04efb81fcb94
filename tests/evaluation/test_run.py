"""evaluate and attack as a whole: a planted memory is found, an untrained model has none."""

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from memfast.attacks.embeddings import AttackSettings
from memfast.attacks.run import attack
from memfast.blocks.families import ffn_sites
from memfast.cli.app import app
from memfast.errors import InputError
from memfast.evaluation.given import removed_share
from memfast.evaluation.results import all_below, score_lines
from memfast.evaluation.run import evaluate
from memfast.files import atomic_write_json
from memfast.measuring.instruments import seen_in
from memfast.measuring.rates import Interval
from memfast.prompts import Prompt, PromptSet
from memfast.removing.compact import compact
from memfast.removing.masking import prune
from memfast.report.attack import attack_albums, attack_table
from memfast.report.attack import page as attack_page
from memfast.report.evaluation import evaluation_albums
from memfast.report.evaluation import page as evaluation_page
from memfast.report.pictures import keep_pictures
from memfast.report.stored import Stored
from memfast.selection import Subspace
from tests.support.planted import PLANTED, SCHEDULE, cases_of

METRICS = ("l2_ratio", "ssim", "tiled_l2")


def test_a_planted_memory_is_found(tiny_pipeline, memorized_set, reference_set):
    result = evaluate(
        tiny_pipeline,
        memorized_set,
        reference_set,
        **SCHEDULE,
        repeats=2,
        metrics=METRICS,
        features="efficientnet-lite0",
    )
    assert [row.name for row in result.rows] == ["original"]
    for metric in METRICS:
        rate = result.rows[0].rates[metric]["all"]
        assert (rate.value, rate.count) == (0.25, 4)
    copies = {line["id"] for line in score_lines(result.outcomes, result.bench) if line["copy"]}
    assert copies == {PLANTED.replace(" ", "-")}
    assert result.rows[0].reference["loss_ratio"].value == pytest.approx(1, abs=1e-5)


def test_an_untrained_model_has_none(tiny_pipeline, reference_set):
    result = evaluate(
        tiny_pipeline,
        reference_set,
        reference_set,
        **SCHEDULE,
        repeats=1,
        metrics=METRICS,
        features=None,
    )
    for metric in METRICS:
        rate = result.rows[0].rates[metric]["all"]
        assert rate.value == 0
        assert rate.high > 0.3


def test_extraction_finds_the_planted_memory(tiny_pipeline, memorized_set, reference_set, tmp_path):
    report = attack(
        tiny_pipeline,
        memorized_set,
        reference_set,
        **SCHEDULE,
        starts=("prompt", "noise"),
        settings=AttackSettings((1, 2), draws=1),
        seeds=1,
        extraction_seeds=12,
        metrics=METRICS,
    )
    found = {e.id: e for e in report.extracted}
    assert found["a-red-cat"].extracted
    assert found["a-red-cat"].clique == 12
    starts = {(r["images"], r["start"], r["steps"]) for r in report.rows()}
    for images in ("memorized", "control"):
        assert {(images, s, n) for s in ("prompt", "noise", "any") for n in (1, 2)} <= starts
    assert ("memorized", "nearest words", 0) in starts
    assert ("memorized", "paraphrase: drop", 0) in starts
    atomic_write_json(tmp_path / "summary.json", report.summary())
    keep_pictures(tmp_path, attack_albums(report))
    page = attack_page(Stored(tmp_path)).html()
    assert "Under attack: control" in page
    assert page.count('class="badge copy"') + page.count('class="badge quiet"') == 4 + 4
    columns, table = attack_table(report.summary())
    assert columns == ["images", "start", "steps", *METRICS, "more than control"]
    claims = {(row[0], row[1]): row[-1] for row in table}
    assert claims["memorized", "any"] == "too few to tell"  # one of four against none of four
    assert claims["control", "any"] == claims["memorized", "nearest words"] == ""


def test_a_claim_needs_every_headline_metric():
    low, high, wide = (Interval(1.0, a, b, 9, 9) for a, b in ((0.0, 0.2), (0.7, 1.0), (0.0, 1.0)))
    assert all_below({"l2_ratio": low, "ssim": low}, {"l2_ratio": high, "ssim": high}) == "shown"
    assert all_below({"l2_ratio": low, "ssim": wide}, {"l2_ratio": high, "ssim": high}) != "shown"
    assert all_below({"ssim": low, "tiled_l2": wide}, {"ssim": high, "tiled_l2": high}) == "shown"
    assert all_below({"tiled_l2": high}, {"tiled_l2": low}) == "not shown"


def test_methods_stand_beside_their_controls(tiny_pipeline, memorized_set, reference_set, tmp_path):
    del tiny_pipeline.unet.forward  # the plant is no part of the weights
    result = evaluate(
        tiny_pipeline,
        memorized_set,
        reference_set,
        **SCHEDULE,
        heldout=PromptSet.of(["c dog", "a a b on", "blue", "red on red"]),
        methods=("neurons", "random-words"),
        repeats=2,
        seeds=1,
        metrics=METRICS,
        features=None,
        attack=AttackSettings((1,), draws=1),
        fraction=0.3,
    )
    rows = {row.name: row for row in result.rows}
    assert list(rows) == [
        "original",
        "neurons",
        "neurons: random, equal density",
        "neurons: random, equal damage",
        "random-words",
    ]
    assert rows["neurons"].singles["parameters"] < rows["original"].singles["parameters"]
    assert rows["random-words"].attacked == rows["original"].attacked
    assert not rows["neurons: random, equal damage"].attacked
    assert rows["neurons"].verdicts == {
        "fewer copies than original": "not shown",
        "fewer copies than random, equal density": "not shown",
        "fewer copies than random, equal damage": "not shown",
        "fewer copies than original, under attack": "not shown",
    }
    assert rows["original"].heldout["ssim"].value == 1
    assert 0 < rows["neurons"].heldout["ssim"].value < 1
    assert rows["neurons"].heldout["loss_ratio"].count == 0  # they have no images
    tested = torch.stack(result.outcomes["neurons"].plain["ssim"])
    assert (~tested.isnan()).sum(1).tolist() == [2, 2]
    atomic_write_json(tmp_path / "summary.json", result.summary())
    keep_pictures(tmp_path, evaluation_albums(result))
    page = evaluation_page(Stored(tmp_path)).html()
    assert "The same captions under attack" in page
    assert "sscd_disc_large" not in page


@pytest.mark.parametrize("kind", ["neurons", "weights"])
def test_a_model_made_beforehand(kind, tiny_pipeline, memorized_set, reference_set):
    del tiny_pipeline.unet.forward
    original = tiny_pipeline.unet
    generator = torch.Generator().manual_seed(0)
    masks = {
        path: torch.rand((count,) if kind == "neurons" else (32, count), generator=generator) < 0.4
        for path, count in ffn_sites(original).items()
    }
    subspace = Subspace(**{kind: masks})
    treated = (
        compact(original, subspace, multiple_of=1, compensate="none")
        if kind == "neurons"
        else prune(original, subspace)
    )
    assert removed_share(original, treated) == (kind, pytest.approx(subspace.density))
    assert removed_share(original, original) == (None, 0.0)
    pipeline = type(tiny_pipeline)(
        **{**tiny_pipeline.components, "unet": treated}, requires_safety_checker=False
    )
    result = evaluate(
        pipeline,
        memorized_set,
        reference_set,
        original=tiny_pipeline,
        located=PromptSet.of([PLANTED]),
        **SCHEDULE,
        repeats=1,
        metrics=METRICS,
        features=None,
    )
    rows = {row.name: row for row in result.rows}
    assert list(rows)[1:] == [
        "model",
        "model: random, equal density",
        "model: random, equal damage",
    ]
    assert rows["model"].rates["ssim"]["located"].count == 1
    assert rows["model"].rates["ssim"]["held-out"].count == 3
    control = result.outcomes["model: random, equal density"].singles["removed"][0]
    assert control == pytest.approx(subspace.density, abs=0.01)


def test_located_captions_taint_their_group():
    cases = cases_of(["a red cat", "a blue dog", "b b b"])
    assert seen_in(cases, PromptSet.of(["a red cat", "c"])) == [True, False, False]


def test_bad_input_is_named(tiny_pipeline, reference_set):
    def run(**settings):
        return evaluate(
            tiny_pipeline, reference_set, reference_set, **SCHEDULE, repeats=1, **settings
        )

    with pytest.raises(InputError, match="methods: 'magic' is none of none, random-words"):
        run(methods=("magic",))
    with pytest.raises(InputError, match="metrics: 'sim' is none of tiled_l2"):
        run(metrics=("sim",))
    with pytest.raises(InputError, match="weights: 'vgg' is none of sscd_disc_large"):
        run(weights={"vgg": "x"})
    with pytest.raises(InputError, match="starts hope: must be of prompt, noise, another"):
        attack(tiny_pipeline, reference_set, reference_set, **SCHEDULE, starts=("hope",))


def test_lists_without_images_are_refused(tiny_pipeline, reference_set):
    bare = PromptSet.of([Prompt("x", "a cat", "/no/such.png", line=3)], "list.csv")
    with pytest.raises(InputError, match=r"list\.csv: no training image can be used .*line 3"):
        evaluate(tiny_pipeline, bare, reference_set, **SCHEDULE, metrics=("ssim",))


def write(folder, name, prompts):
    path = folder / f"{name}.jsonl"
    lines = [json.dumps({"id": p.id, "prompt": p.text, "image": p.image}) for p in prompts]
    path.write_text("\n".join(lines))
    return str(path)


def test_the_commands(tiny_folder, memorized_set, reference_set, tmp_path):
    memorized = write(tmp_path, "memorized", memorized_set)
    reference = write(tmp_path, "reference", reference_set)
    first = next(iter(memorized_set)).image
    Image.open(first).resize((20, 20)).save(first)
    common = [str(tiny_folder), "--memorized", memorized, "--reference", reference]
    common += [
        "--num-inference-steps",
        "2",
        "--guidance-scale",
        "1",
        "--metrics",
        "ssim,perceptual",
    ]
    out = tmp_path / "evaluated"
    options = ["--out", str(out), "--repeats", "1", "--seeds", "1"]
    result = CliRunner().invoke(app, ["evaluate", *common, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["metrics"]["ssim"]["threshold"] == 0.6
    assert "training images: 1 scaled" in summary["notes"]
    assert summary["inputs"]["memorized"] == {"list": "memorized.jsonl", "rejected": 0}
    assert "clip score" in summary["missing"]
    assert (out / "scores.csv").read_text().startswith("method,setting,repeat,id,metric,score,copy")
    assert "ssim@1" in (out / "scores.csv").read_text()
    assert (out / "report.html").stat().st_size > 2000
    attacked = tmp_path / "attacked"
    options = ["--out", str(attacked), "--steps", "1", "--draws", "1", "--seeds", "1"]
    result = CliRunner().invoke(app, ["attack", *common, *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rates = json.loads((attacked / "summary.json").read_text())["rates"]
    assert {r["images"] for r in rates} == {"memorized", "control"}


def test_a_list_is_needed_for_any_model_but_the_demo(tiny_folder, tmp_path):
    with pytest.raises(InputError, match="--memorized: name a list"):
        CliRunner().invoke(
            app,
            ["evaluate", str(tiny_folder), "--out", str(tmp_path / "x")],
            catch_exceptions=False,
        )
    assert not (tmp_path / "x").exists()
