"""The model card of a smaller pipeline: where it comes from, what is gone, what was measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from memfast.pipelines.opening.naming import is_hub_id

NOTICE = "Memorization is suppressed, not proven gone: verify with `memfast attack`."
_INHERITED = ("license", "license_name", "license_link", "language", "pipeline_tag")
_LOADING = {
    "compact": "import memfast  # knows the compact classes\n",
    "portable": "",
    "masked": "",
}


def inherited(source: str | Path) -> dict[str, Any]:
    """What a base model's own card (README.md in its folder) says about licence and task."""
    path = Path(source) / "README.md"
    if not path.is_file():
        return {}
    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    try:
        header = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    except yaml.YAMLError:
        return {}
    return {k: header[k] for k in _INHERITED if k in header} if isinstance(header, dict) else {}


def model_card(
    source: str,
    form: str,
    removed: Mapping[str, Any],
    figures: Mapping[str, Any],
    base: Mapping[str, Any] | None = None,
) -> str:
    """The README of a pipeline made smaller from `source`.

    `removed` says what was taken out and how, `figures` what was measured; `base` is what
    `inherited` found.
    """
    base = dict(base or {})
    header = {"library_name": "diffusers", "tags": ["memfast", "pruned", form], **base}
    if is_hub_id(source):
        header |= {"base_model": source, "base_model_relation": "finetune"}
    shown = source if is_hub_id(source) else Path(source).name  # no folder of this machine
    trust = ", trust_remote_code=True" if form == "portable" else ""
    licence = (
        "The base model's licence applies."
        if "license" in base
        else "The base model's licence applies; its card was not at hand, so look it up there."
    )
    return f"""---
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}
---

# {Path(source).name}, {form} by memfast

Feed-forward neurons of `{shown}` were removed with memfast.
**{NOTICE}** {licence}

```python
{_LOADING[form]}from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("THIS FOLDER"{trust})
```

## What was removed
{_table(removed)}

## What was measured
{_table(figures)}
"""


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {name.replace('_', ' ')} | {_figure(value)} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---:|", *lines])


def _figure(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
