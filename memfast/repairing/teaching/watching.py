"""Stop when it turns: what a repair in progress gives away, and its last state without that."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from memfast.attacks.embeddings import AttackSettings
from memfast.measuring.cases import Cases
from memfast.pipelines.drivers.driver import Driver
from memfast.pipelines.schedule import Schedule
from memfast.repairing.proving import brought_back, copied, rate_of
from memfast.repairing.teaching.averaging import assign

WATCHED = 24  # captions whose images are generated, at most
ATTACKED = 8  # images under attack, and as many of reference captions as its control
ATTACK = AttackSettings((50,), draws=4)


@dataclass(frozen=True)
class Look:
    """step: steps done. copied: the share of captions that make a copy. attacked, control: the
    share of memorized and of reference images that the attack brings back; the control is only
    measured where something came back."""

    step: int
    copied: float
    attacked: float
    control: float

    @property
    def good(self) -> bool:
        """Whether nothing comes back that would not of any image."""
        return not self.copied and self.attacked <= self.control


class Watch:
    """Looks at a model on captions that teach it nothing, and keeps its last good weights."""

    def __init__(self, student: Driver, watched: Cases, control: Cases, schedule: Schedule):
        """watched: memorized captions with images; control: reference captions with images."""
        self.student, self.schedule = student, schedule
        self.watched = watched.part(range(min(WATCHED, len(watched))))
        self.attacked = watched.part(range(min(ATTACKED, len(watched))))
        self.control = control.part(range(min(len(self.attacked), len(control))))
        self.library = torch.cat([watched.training_images(), control.training_images()])
        self.looks: list[Look] = []
        self.good: list[Tensor] = []

    def look(self, step: int) -> None:
        """Look, and keep the weights where all is well."""
        copies = copied(self.student, self.watched, self.library, self.schedule, (0,))
        attacked = self._brought_back(self.attacked)
        control = self._brought_back(self.control) if attacked else 0.0
        look = Look(step, copies.value, attacked, control)
        self.looks.append(look)
        if look.good:
            self.good = [p.detach().to("cpu", copy=True) for p in self.student.model.parameters()]

    @property
    def over(self) -> bool:
        """Whether all was well before, and at the last look no more."""
        return bool(self.good and self.looks) and not self.looks[-1].good

    def _brought_back(self, cases: Cases) -> float:
        told = self.library, self.schedule, ATTACK, ("prompt",)
        return rate_of(brought_back(self.student, cases, *told), cases).value

    def put(self) -> None:
        """Give the model its last good weights, where it had any."""
        if self.good:
            assign([*self.student.model.parameters()], self.good)

    def header(self) -> list[dict[str, Any]]:
        """What was seen, as JSON holds it."""
        return [asdict(look) for look in self.looks]

    def go_on(self, looks: list[dict[str, Any]]) -> None:
        """What was seen before."""
        self.looks = [Look(**look) for look in looks]

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {str(place): value for place, value in enumerate(self.good)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        self.good = [state[str(place)] for place in range(len(state))]
