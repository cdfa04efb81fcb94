"""Forgetting that holds against quality: one arm a model, a treatment and a seed; a JSON line each.

    python benchmarks/forgetting.py --out arms.jsonl --device cuda --jobs 8 --minutes 4
    python benchmarks/forgetting.py --out arms.jsonl --only demo/uniform --set steps=600

Arms run side by side as processes; after the minutes those that still run are ended. A line is
written as its arm ends, and an arm that has one is not run again. Captions are dealt by duplicate
group: memorized ones that the original copies into located, validation and test; all others into
those that rank and teach, validation and test. The `CANDIDATES` run on the models of `--choose`;
the best by "validation" there then runs on those of `--test`: every figure of "test" is of captions
that neither taught nor chose. `--models` holds a folder a model, laid out as the demo's data;
`--tiny` runs all at sizes that mean nothing. MODEL/prepare does what a model's arms share, once,
and leaves it in `--kept`; `check` compares replayed with launched steps.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

TEACH = {"learning_rate": 2e-3, "batch": 24, "surrogate": 0.0, "scattered": 0.0, "adversarial": 0.0}
UNIFORM = {**TEACH, "steps": 1000, "perturb": 0.6}
SELECT = {**UNIFORM, "selected": 0.3, "perturb_high": 0.95, "perturb_low": 0.4}
GENTLE = {**SELECT, "perturb_low": 0.2}
FEATURES = {"features": 1.0}
PRESSED = {"adversarial": 0.3, "every": 5, "stride": 2, "ema": 0.99}
TREATMENTS: Mapping[str, Mapping[str, Any] | None] = {
    "original": None,
    "removed": None,
    "removed-selectively": None,
    "uniform": UNIFORM,
    "selective": SELECT,
    "gentle": GENTLE,
    "selective+features": {**SELECT, **FEATURES},
    "uniform+pressed": {**UNIFORM, **PRESSED},
    "selective+pressed": {**SELECT, **PRESSED},
    "gentle+pressed": {**GENTLE, **PRESSED},
    "selective+pressed, long": {**SELECT, **PRESSED, "steps": 2500},
    "gentle+pressed, long": {**GENTLE, **PRESSED, "steps": 2500},
    "prepare": None,
}
FOLDERS = ("models", "kept")  # of the machine: no part of a result
CANDIDATES = ("uniform", "gentle+pressed", "selective+pressed")
ABLATIONS = ("selective", "gentle", "uniform+pressed", "selective+features")
REMOVALS = {"check": None, "original": None, "removed-selectively": "selective"}
REMOVED = ("removed", "removed-selectively")
COPIED = 24  # memorized captions, at least: where fewer are copied, those seen most often as well
ATTACKED = 16
SIZES = {"rank": 24, "copies": 24, "attacked": ATTACKED, "singles": 24, "loss": 48, "clip": 96}
TINY = {"rank": 4, "copies": 2, "attacked": 2, "singles": 2, "loss": 2, "clip": 3}
SHORT = {"steps": 2, "batch": 2, "controls": 2, "run_up": 1, "stride": 1, "draws": 1}
CAPTIONS = 400  # among which the right one is to be found


@dataclass(frozen=True)
class Arm:
    """What is done to which model. settings: of repair, or none. rule: of removal, or none."""

    name: str
    settings: dict[str, Any] | None
    rule: str | None = "reference"
    max_damage: float = 1.02
    seed: int = 0
    device: str = "cpu"
    models: str = ""
    tiny: bool = False
    eager: bool = False
    at_most: dict[str, int] = field(default_factory=dict)
    attack: list[int] = field(default_factory=lambda: [50])
    kept: str = ""

    @property
    def data(self) -> Path:
        """The model's folder."""
        from memfast.demo import DATA

        model = self.name.split("/")[0]
        return DATA if model == "demo" else Path(self.models) / model

    @property
    def sizes(self) -> dict[str, int]:
        """How many captions each figure takes, at most."""
        return TINY if self.tiny else {**SIZES, **self.at_most}


@dataclass
class Parts:
    """Captions by what they are for: rows of prompts."""

    located: list[Any]
    teach: list[Any]
    memorized: dict[str, list[Any]] = field(default_factory=dict)
    singles: dict[str, list[Any]] = field(default_factory=dict)
    unseen: dict[str, list[Any]] = field(default_factory=dict)


def deal_captions(data: Path, copied: Callable[[list[Any]], list[bool]]) -> Parts:
    """The same for every arm and seed; copied: which memorized captions the original copies."""
    from memfast.prompts import read_prompts
    from memfast.prompts.groups import deal, prompt_groups

    known = {
        name: list(read_prompts(data / f"{name}.jsonl"))
        for name in ("memorized", "singles", "heldout")
    }
    often = sorted(known["memorized"], key=lambda p: -int((p.label or "x0")[1:]))
    order = sorted(zip(copied(often), often, strict=True), key=lambda pair: not pair[0])
    memorized = [p for place, (is_copy, p) in enumerate(order) if is_copy or place < COPIED]
    others = known["singles"] + known["heldout"]
    ours = [
        [memorized[place] for place in part] for part in deal(prompt_groups(memorized), 8, seed=0)
    ]
    theirs = [[others[place] for place in part] for part in deal(prompt_groups(others), 8, seed=0)]
    seen = {p.id for p in known["singles"]}
    parts = Parts([p for part in ours[:3] for p in part], [p for part in theirs[:6] for p in part])
    for name, of_ours, of_theirs in (
        ("validation", ours[3:5], theirs[6]),
        ("test", ours[5:], theirs[7]),
    ):
        parts.memorized[name] = [p for part in of_ours for p in part]
        parts.singles[name] = [p for p in of_theirs if p.id in seen]
        parts.unseen[name] = [p for p in of_theirs if p.id not in seen]
    return parts


class Bench:
    """One arm at work."""

    def __init__(self, arm: Arm):
        import torch

        from memfast.pipelines.drivers.table import driver_of
        from memfast.pipelines.loading import load_pipeline

        folder = str(arm.data / "pipeline")
        self.arm = arm
        self.pipeline = load_pipeline(folder, dtype=torch.float32, device=arm.device)
        self.driver = driver_of(self.pipeline)
        self.seconds: dict[str, float] = {}
        self.found: dict[str, Any] = {}
        self.parts = self.timed("dealing", lambda: deal_captions(arm.data, self.copied))

    def copied(self, prompts: list[Any]) -> list[bool]:
        """Which captions the original makes a copy of, at either of two seeds."""
        from memfast.memory.captured import captured

        if self.arm.tiny:
            return [True] * len(prompts)
        file = self.kept("copied.json")
        if file and file.exists():
            known = json.loads(file.read_text())
            return [known[prompt.text] for prompt in prompts]
        cases = self.cases(prompts)
        with captured([self.driver.model]):
            images = [made(self.driver, cases, seed) for seed in (3, 4)]
        passed = self.passed(images, cases, cases.training_images())["both"]
        which = dict(zip(cases.texts, passed.tolist(), strict=True))
        which = {text: bool(is_copy) for text, is_copy in which.items()}
        if file:
            file.write_text(json.dumps(which))
        return [which[prompt.text] for prompt in prompts]

    def kept(self, name: str) -> Path | None:
        """A file of what all arms of a model share, where there is a place for it."""
        arm = self.arm
        return Path(arm.kept) / f"{arm.data.name}-{arm.seed}-{name}" if arm.kept else None

    def cases(self, prompts: list[Any], most: int | None = None) -> Any:
        from memfast.measuring.cases import load_cases
        from memfast.prompts import PromptSet

        return load_cases(PromptSet.of(prompts[:most]), self.driver.size)

    def run(self) -> dict[str, Any]:
        """The arm's line."""
        from memfast.blocks.families import ffn_sites
        from memfast.memory.captured import captured

        treated = self.timed("removing", self.removed)
        neurons = [sum(ffn_sites(d.model).values()) for d in (self.driver, treated)]
        treated = self.timed("teaching", lambda: self.repaired(treated))
        if self.arm.name.endswith("/prepare"):
            return {"arm": self.arm.name, "gone": 1 - neurons[1] / neurons[0]}
        with captured([self.driver.model, treated.model]):
            self.timed("measuring", lambda: self.measure(treated))
        return {
            "arm": self.arm.name,
            "device": self.arm.device,
            "gone": 1 - neurons[1] / neurons[0],
            **self.found,
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
            "settings": {k: v for k, v in asdict(self.arm).items() if k not in FOLDERS},
        }

    def timed(self, name: str, work: Any) -> Any:
        """What the work returns; how long it took is noted."""
        before = time.perf_counter()
        result = work()
        self.seconds[name] = time.perf_counter() - before
        return result

    def removed(self) -> Any:
        """The model without what reference captions need least."""
        from memfast.observing.sensitivity import collect_sensitivity
        from memfast.prompts import PromptSet
        from memfast.removing.compact import compact
        from memfast.repairing.removal import harm_of, remove_to_damage
        from memfast.selection import Subspace

        arm, count = self.arm, self.arm.sizes["rank"]
        if arm.rule is None:
            return self.driver
        file = self.kept(f"{arm.rule}.safetensors")
        if file and file.exists():
            return self.driver.with_model(compact(self.driver.model, Subspace.load(file)))
        sets = {"reference": self.parts.teach[:count]}
        if arm.rule == "selective":
            sets["memorized"] = self.parts.located[:count]
        known = {
            name: collect_sensitivity(self.pipeline, PromptSet.of(found), seed=arm.seed)
            for name, found in sets.items()
        }
        harm = harm_of(self.driver, self.cases(self.parts.teach[count : 2 * count]), arm.seed)
        how = {"rule": arm.rule, "memorized": known.get("memorized")}
        trials = 1 if arm.tiny else 6
        most = 9.0 if arm.tiny else arm.max_damage
        removal = remove_to_damage(
            self.driver, known["reference"], harm, most, trials=trials, **how
        )
        if file:
            removal.subspace.save(file)
        return self.driver.with_model(compact(self.driver.model, removal.subspace))

    def repaired(self, treated: Any) -> Any:
        """The model after teaching, where the arm has settings."""
        from memfast.prompts import PromptSet
        from memfast.repairing.run import repair
        from memfast.repairing.settings import RepairSettings

        arm = self.arm
        if arm.settings is None:
            return treated
        teach = self.parts.teach[: 16 if arm.tiny else None]
        located = self.parts.located[: 4 if arm.tiny else None]
        given = {**arm.settings, "seed": arm.seed, **(SHORT if arm.tiny else {})}
        settings = RepairSettings(**given)
        done = repair(
            treated.owner,
            self.pipeline,
            PromptSet.of(teach),
            PromptSet.of(located),
            settings=settings,
        )
        self.found["looks"] = [asdict(look) for look in done.looks]
        self.found["steps"] = len(done.history)
        self.found["errors"] = {n: v for n, v in done.history[-1].items() if n != "step"}
        return done.driver

    def measure(self, treated: Any) -> None:
        """Every figure, on validation and test captions."""
        import torch

        from memfast.measuring.distances import ssim
        from memfast.measuring.losses import denoising_loss
        from memfast.measuring.rates import mean_interval

        sizes = self.arm.sizes
        figures: dict[str, dict[str, Any]] = {"validation": {}, "test": {}}
        library = torch.cat(
            [
                self.cases([*self.parts.located, *self.parts.memorized[part]]).training_images()
                for part in figures
            ]
            + [self.cases(self.parts.singles[part]).training_images() for part in figures]
        )
        for part, found in figures.items():
            memorized = self.cases(self.parts.memorized[part], sizes["copies"])
            images = [made(treated, memorized, seed) for seed in (1, 2)]
            found["copies"] = self.judged(images, memorized, library)
            unseen = self.cases(self.parts.unseen[part], sizes["loss"])
            losses = [denoising_loss(d, unseen).nanmean() for d in (treated, self.driver)]
            found["loss"] = float(losses[0] / losses[1])
            singles = self.cases(self.parts.singles[part], sizes["singles"])
            pairs = [
                ssim(made(treated, singles, seed), made(self.driver, singles, seed))
                for seed in (1, 2)
            ]
            found["singles_ssim"] = mean_interval(torch.stack(pairs)).as_dict()
            found |= self.agreement(treated, part)
        for part, rates in self.attacked(treated, library).items():
            figures[part] |= rates
        self.found |= figures

    def judged(self, images: list[Any], cases: Any, library: Any) -> dict[str, Any]:
        """Shares of captions that make a copy: by each criterion, and by both."""
        from memfast.measuring.rates import mean_interval

        return {
            name: mean_interval(each, cases.groups, rate=True).as_dict()
            for name, each in self.passed(images, cases, library).items()
        }

    def passed(self, images: list[Any], cases: Any, library: Any) -> dict[str, Any]:
        """1 for each caption of which some image is a copy: by each criterion, and by both."""
        import torch

        from memfast.measuring.replication import replication
        from memfast.measuring.similarity import toolbox
        from memfast.repairing.proving import METRICS

        found = replication(toolbox(METRICS, device=self.driver.device), images, cases, library)
        passed = {name: found.replicated(name) for name in METRICS}
        return passed | {"both": torch.stack([*passed.values()]).amin(0)}

    def attacked(self, treated: Any, library: Any) -> dict[str, dict[str, Any]]:
        """{part: what the attack brings back from the prompt, and of singles as the control, after
        the first number of steps and the others}: one search for all images, which does not change
        what it finds."""
        from memfast.attacks.embeddings import AttackSettings, find_embeddings

        count = self.arm.sizes["attacked"]
        import torch

        sets = {"attacked": self.parts.memorized, "control": self.parts.singles}
        lots = {
            (part, kind): self.cases(listed[part], count).first_images()
            for part in ("validation", "test")
            for kind, listed in sets.items()
        }
        ids = [i for cases, _ in lots.values() for i in cases.ids]
        texts = [t for cases, _ in lots.values() for t in cases.texts]
        clean = treated.encode_images(torch.cat([images for _, images in lots.values()]))
        steps = (2,) if self.arm.tiny else tuple(self.arm.attack)
        settings = AttackSettings(steps, draws=4, batch=len(ids))
        told = find_embeddings(treated, clean, treated.encode_all(texts), ids, settings)
        rates: dict[str, dict[str, Any]] = {"validation": {}, "test": {}}
        for count, reached in told.items():
            images = [treated.generate(reached, ids, seed).float().cpu() for seed in (1, 2)]
            first = 0
            for (part, kind), (cases, _) in lots.items():
                rows = slice(first, first + len(cases))
                name = kind if count == steps[0] else f"{kind}_{count}"
                rates[part][name] = self.judged([each[rows] for each in images], cases, library)
                first = rows.stop
        return rates

    def agreement(self, treated: Any, part: str) -> dict[str, Any]:
        """CLIP score, and how often the right caption is the nearest of many."""
        import torch

        from memfast.demo import DATA
        from memfast.measuring.networks.clip import ClipScorer

        own = self.arm.data / "clip"
        clip = ClipScorer(str(own if own.is_dir() else DATA / "clip"), self.driver.device)
        listed = [*self.parts.singles[part], *self.parts.unseen[part]]
        cases = self.cases(listed, self.arm.sizes["clip"])
        more = [p.text for p in self.parts.teach if p.text not in set(cases.texts)]
        texts = (cases.texts + more)[:CAPTIONS]
        features = clip.image_features(made(treated, cases, 1))
        similar = features @ clip.text_features(texts).T
        own = similar[torch.arange(len(cases)), torch.arange(len(cases))]
        recall = (similar > own[:, None]).sum(1) < 1
        return {"clip": float(own.mean()), "recall": float(recall.double().mean())}


def made(driver: Any, cases: Any, seed: int) -> Any:
    """Images on the CPU."""
    return driver.generate(driver.encode_all(cases.texts), cases.ids, seed).float().cpu()


def compared(arm: Arm) -> dict[str, Any]:
    """Steps of teaching, replayed and launched one by one: what they differ by, and their time."""
    import torch

    from memfast.memory import replaying
    from memfast.prompts import PromptSet
    from memfast.repairing.run import repair
    from memfast.repairing.settings import RepairSettings

    bench = Bench(replace(arm, name="demo/check"))
    steps = 4 if arm.tiny else 40
    found: dict[str, Any] = {"arm": "check", "device": arm.device}
    weights = {}
    for name, often in (("launched", 10**9), ("replayed", replaying.OFTEN)):
        replaying.OFTEN = often
        marks: list[float] = []
        settings = RepairSettings(**{**SELECT, "steps": steps, "features": 0.1, "selected": 0.0})
        prompts = PromptSet.of(bench.parts.teach[:64])
        done = repair(
            bench.pipeline,
            bench.pipeline,
            prompts,
            settings=settings,
            progress=lambda label, total, marks=marks: lambda n: marks.append(time.perf_counter()),
        )
        half = len(marks) // 2
        found[f"ms_{name}"] = 1000 * (marks[-1] - marks[half]) / (len(marks) - 1 - half)
        weights[name] = torch.cat([p.detach().flatten() for p in done.driver.model.parameters()])
        found[f"error_{name}"] = done.history[-1]["reference"]
    apart = (weights["replayed"] - weights["launched"]).norm() / weights["launched"].norm()
    return {**found, "relative_difference": float(apart)}


def work(text: str) -> None:
    """A child process: prints one line."""
    import torch

    torch.set_num_threads(1)
    arm = Arm(**json.loads(text))
    if arm.eager:
        from memfast.memory import replaying

        replaying.OFTEN = 10**9
    started = time.perf_counter()
    line = compared(arm) if arm.name == "check" else Bench(arm).run()
    print(json.dumps({**line, "total_seconds": round(time.perf_counter() - started, 1)}))


def arm_of(name: str, arguments: argparse.Namespace) -> Arm:
    """The arm of a name MODEL/TREATMENT[@SEED]."""
    label, _, seed = name.partition("@")
    treatment = label.split("/")[-1]
    tested = name.split("/")[0] in arguments.test.split(",")
    own = TREATMENTS.get(treatment) if name != "check" else None
    changes = dict(pair.split("=", 1) for pair in arguments.set)
    settings = None if own is None else {**own, **{k: json.loads(v) for k, v in changes.items()}}
    return Arm(
        name,
        settings,
        REMOVALS.get(treatment, "reference"),
        seed=int(seed or 0),
        device=arguments.device,
        models=str(arguments.models),
        tiny=arguments.tiny,
        at_most={k: int(v) for k, v in (pair.split("=") for pair in arguments.sizes)},
        kept=str(arguments.kept or ""),
        attack=arguments.attack[: None if tested else 1],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--kept", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--only", default="")
    parser.add_argument("--choose", default="demo,double")
    parser.add_argument("--test", default="soft,flow,epsilon,wide")
    parser.add_argument("--attack", nargs="*", type=int, default=[50])  # all: models of --test
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE")
    parser.add_argument("--sizes", nargs="*", default=[], metavar="NAME=N")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.with_suffix(".log").open("a") as log:
        Queue(arguments, log).run(time.monotonic() + 60 * arguments.minutes)


class Queue:
    """Arms as processes, so many at once."""

    def __init__(self, arguments: argparse.Namespace, log: IO[str]):
        self.arguments, self.out, self.log = arguments, arguments.out, log
        lines = self.out.read_text().splitlines() if self.out.exists() else []
        self.lines = {line["arm"]: line for line in map(json.loads, lines)}
        self.asked: set[str] = set(self.lines)
        self.waiting: list[Arm] = []
        self.running: dict[subprocess.Popen[str], Arm] = {}
        self.choose, self.test = arguments.choose.split(","), arguments.test.split(",")
        self.ask(arguments.only.split(",") if arguments.only else self.first())

    def first(self) -> list[str]:
        """What does not wait for anything."""
        return [f"{model}/{name}" for name in CANDIDATES for model in self.choose]

    def following(self) -> list[str]:
        """What to run once the candidates have: the best on other models and for longer, all else,
        seeds."""
        if any(f"{model}/{name}" in self.open for model in self.choose for name in CANDIDATES):
            return []
        order, every = ranked(self.lines, self.choose), (*self.choose, *self.test)
        best = [name for name in order if f"{name}, long" in TREATMENTS][:1]
        lots = (
            (best, self.test),
            ([f"{name}, long" for name in best], self.choose),
            (["uniform"], self.test),
            (ABLATIONS, self.choose),
            (("original", *REMOVED), every),
            ([f"{name}@{seed}" for name in best for seed in (1, 2)], every),
        )
        return [f"{model}/{name}" for names, models in lots for name in names for model in models]

    def ask(self, names: Sequence[str]) -> None:
        """Queue arms, each once, of models that are there."""
        for name in names:
            arm = arm_of(name, self.arguments)
            if name not in self.asked and (name == "check" or arm.data.is_dir()):
                self.asked.add(name)
                self.waiting.append(arm)

    def run(self, end: float) -> None:
        """Until all is done, or the end."""
        while time.monotonic() < end:
            if not self.waiting and not self.arguments.only:
                self.ask(self.following())
            if not self.waiting and not self.running:
                break
            while self.waiting and len(self.running) < self.arguments.jobs:
                arm = self.waiting.pop(0)
                told = [sys.executable, __file__, "--arm", json.dumps(asdict(arm))]
                child = subprocess.Popen(told, stdout=subprocess.PIPE, stderr=self.log, text=True)
                self.running[child] = arm
            time.sleep(0.2)
            for child in [each for each in self.running if each.poll() is not None]:
                self.ended(child)
        for child in self.running:
            child.kill()

    @property
    def open(self) -> set[str]:
        """Arms that have no line yet and may get one."""
        return {arm.name for arm in (*self.waiting, *self.running.values())}

    def ended(self, child: "subprocess.Popen[str]") -> None:
        """Keep the line of a process, or try once more without replaying."""
        arm, found = self.running.pop(child), child.stdout.read()  # type: ignore[union-attr]
        if child.returncode == 0:
            text = found.splitlines()[-1]
            with self.out.open("a") as file:
                file.write(text + "\n")
            self.lines[arm.name] = json.loads(text)
            print(shown(self.lines[arm.name]), flush=True)
        elif not arm.eager and arm.device != "cpu":
            self.waiting.insert(0, replace(arm, eager=True))
        else:
            print(f"{arm.name}: failed, see the log", flush=True)


def ranked(lines: Mapping[str, dict[str, Any]], models: Sequence[str]) -> list[str]:
    """The candidates, the best first: a treatment that holds on validation captions (no more comes
    back, attacked or not, than of its control, but for one image) before one that does not; among
    equals by the similarity of ordinary images."""
    found = []
    for name in CANDIDATES:
        ours = [lines[f"{m}/{name}"]["validation"] for m in models if f"{m}/{name}" in lines]
        if ours:
            over = [
                max(each["copies"]["both"]["value"], _over(each)) > 1.5 / ATTACKED for each in ours
            ]
            similar = sum(each["singles_ssim"]["value"] for each in ours) / len(ours)
            found.append((sum(over), -similar, name))
    return [name for _, _, name in sorted(found)]


def _over(part: Mapping[str, Any]) -> float:
    return part["attacked"]["both"]["value"] - part["control"]["both"]["value"]


def shown(line: dict[str, Any]) -> str:
    """A line for the eye: validation / test."""
    if "test" not in line:
        return json.dumps(line)
    both = [line[part] for part in ("validation", "test")]
    words = [f"{line['arm']:40s} gone {line['gone']:.2f}"]
    for name in ("copies", "attacked", "control", "attacked_200", "control_200"):
        if name not in both[0]:
            continue
        words.append(f"{name} " + "/".join(f"{b[name]['both']['value']:.2f}" for b in both))
    words.append("loss " + "/".join(f"{b['loss']:.3f}" for b in both))
    words.append("ssim " + "/".join(f"{b['singles_ssim']['value']:.3f}" for b in both))
    words.append("recall " + "/".join(f"{b.get('recall', 0):.2f}" for b in both))
    return "  ".join([*words, f"{line['total_seconds']:.0f} s {line['seconds']}"])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--arm"]:
        work(sys.argv[2])
    else:
        main()
