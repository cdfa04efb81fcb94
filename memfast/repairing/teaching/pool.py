"""The inner attack, kept running: embeddings that are driven on a little each time they are used.

A whole search for every outer step would cost fifty passes; a search that goes on while the model
changes costs a few, and what it finds is as fresh (after Shafahi et al. 2019, arXiv 1904.12843).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from memfast.attacks.embeddings import STARTS, AttackSettings, Slopes, find_embeddings
from memfast.pipelines.drivers.conditioning import Conditioning
from memfast.pipelines.drivers.driver import Driver
from memfast.repairing.samples import Samples
from memfast.repairing.settings import RepairSettings


class Pool:
    """What was found for every image and start, with the number of attack steps behind it."""

    def __init__(
        self,
        driver: Driver,
        targets: Sequence[tuple[Samples, Sequence[str]]],
        settings: RepairSettings,
    ):
        """targets: images to attack, each lot with the starts that it is attacked from."""
        self.settings = settings
        self.slopes: Slopes | None = None
        lots = [(samples, start) for samples, starts in targets for start in starts]
        self.names = [f"{name}/{start}" for samples, start in lots for name in samples.ids]
        self.clean = torch.cat([samples.clean for samples, _ in lots])
        self.beginnings = Conditioning.cat(
            [STARTS[start](driver, s.ids, s.texts, settings.seed) for s, start in lots]
        )
        self.found = {name: leaf.clone() for name, leaf in self.beginnings.searching().items()}
        self.ages = torch.zeros(len(self.names), dtype=torch.int64)

    def advanced(
        self, student: Driver, step: int, source: torch.Generator
    ) -> tuple[Tensor, Conditioning]:
        """Clean latents of images and what the attack now has for them.

        A batch of the pool is drawn, begun anew where its life is over, and attacked on. What has
        just begun is driven away from captions first: those are not to be unlearnt.
        """
        settings = self.settings
        rows = torch.randperm(len(self.names), generator=source)[: settings.batch]
        over = rows[self.ages[rows] >= settings.life]
        for name, leaf in self.beginnings.searching().items():
            self.found[name][over] = leaf[over]
        self.ages[over] = 0
        seed = settings.seed + 2 * step
        self._drive(student, rows[self.ages[rows] == 0], settings.run_up, seed)
        self._drive(student, rows, settings.stride, seed + 1)
        return self.clean[rows], self._told(rows)

    def _drive(self, student: Driver, rows: Tensor, steps: int, seed: int) -> None:
        if not len(rows) or not steps:
            return
        settings = self.settings
        attack = AttackSettings(
            (steps,), settings.attack_rate, settings.draws, seed=seed, batch=settings.batch
        )
        names = [self.names[row] for row in rows.tolist()]
        with torch.enable_grad():
            told = self._told(rows)
            found = find_embeddings(
                student, self.clean[rows], told, names, attack, slopes=self._slopes(student)
            )
        for name, leaf in found[steps].searching().items():
            self.found[name][rows] = leaf
        self.ages[rows] += steps

    def _slopes(self, student: Driver) -> Slopes:
        """The student's, as long as it is taught."""
        if self.slopes is None or self.slopes.driver is not student:
            self.slopes = Slopes(student, self.settings.graphs)
        return self.slopes

    def _told(self, rows: Tensor) -> Conditioning:
        return self.beginnings.told(self.found)[rows]

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: a copy."""
        found = {f"found/{name}": leaf.clone() for name, leaf in self.found.items()}
        return {**found, "ages": self.ages.clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.found = {name: state[f"found/{name}"].to(leaf) for name, leaf in self.found.items()}
        self.ages = state["ages"]
