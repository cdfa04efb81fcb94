"""Count released models again: `python -m memfast.models.families.count [NAME …]`."""

import sys

import torch

from memfast.models.families.examples import EXAMPLES, released
from memfast.models.families.figures import Figures
from memfast.models.sizes import flops_of, size_of


def count(name: str) -> Figures:
    """Figures of a released model's shapes, on the meta device."""
    example, model = EXAMPLES[name], released(name)
    size = size_of(model)
    try:
        with torch.device("meta"):
            inputs = example.inputs(model.config, example.size, example.tokens)
        total, ours = flops_of(model, inputs)
        flops = round(100 * ours / total, 1)
    except (RuntimeError, NotImplementedError):  # it looks at values, and there are none
        flops = None
    return Figures(size.sites, size.neurons, round(100 * size.share, 1), flops)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or EXAMPLES:
        print(f'    "{chosen}": {count(chosen)},'.replace("sites=", "").replace("neurons=", ""))
