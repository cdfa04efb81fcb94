"""Detection on several models: every probe, score and peer, by rows spent.

    python -m benchmarks.detection collect demo DIR ... --out looks --peers --walk 10
    python -m benchmarks.detection judge looks --choose NAME NAME --out figures.json

`collect` writes what the looks showed of every caption of a folder like the demo's data.
`judge` makes scores of it, chooses among them on the named models by the worst of these, and
reports all on all. References are half of the held-out captions, by group; nothing else is learnt
from but a third of the memorized captions, by group, where a row says so: they are in no figure.
"""
