"""The inner attack, kept running: embeddings that are driven on a little each time they are used.

A whole search for every outer step would cost fifty passes; a search that goes on while the model
changes costs a few, and what it finds is as fresh (after Shafahi et al. 2019, arXiv 1904.12843).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from memfast.evaluation.adversarial import STARTS, AttackSettings, find_embeddings
from memfast.models.denoising import Denoiser
from memfast.repairing.samples import Samples
from memfast.repairing.settings import RepairSettings


class Pool:
    """One embedding for every image and start, with the number of attack steps behind it."""

    def __init__(self, denoiser: Denoiser, targets: Samples, settings: RepairSettings):
        self.settings = settings
        self.names = [f"{name}/{start}" for start in settings.starts for name in targets.ids]
        self.clean = targets.clean.repeat(len(settings.starts), 1, 1, 1)
        self.beginnings = torch.cat(
            [
                STARTS[start](denoiser, targets.ids, targets.texts, settings.seed)
                for start in settings.starts
            ]
        )
        self.embeddings = self.beginnings.clone()
        self.ages = torch.zeros(len(self.names), dtype=torch.int64)

    def advanced(
        self, student: Denoiser, step: int, source: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Clean latents of images and the embeddings that the attack now has for them.

        A batch of the pool is drawn, begun anew where its life is over, and attacked on.
        """
        settings = self.settings
        rows = torch.randperm(len(self.names), generator=source)[: settings.batch]
        over = rows[self.ages[rows] >= settings.life]
        self.embeddings[over] = self.beginnings[over]
        self.ages[over] = 0
        attack = AttackSettings(
            (settings.stride,),
            settings.attack_rate,
            settings.draws,
            seed=settings.seed + step,
            batch=settings.batch,
        )
        names: Sequence[str] = [self.names[row] for row in rows.tolist()]
        with torch.enable_grad():
            found = find_embeddings(
                student, self.clean[rows], self.embeddings[rows], names, attack
            )[settings.stride]
        self.embeddings[rows] = found
        self.ages[rows] += settings.stride
        return self.clean[rows], found

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"embeddings": self.embeddings, "ages": self.ages}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.embeddings = state["embeddings"].to(self.embeddings)
        self.ages = state["ages"]
