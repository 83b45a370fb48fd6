"""Learning from the original without labels: the pruned graph is trained to give what it gave.

    from graphprune.distill.run import distill
    model, report = distill(original, pruned, plan, calibration, minutes=10)

Needs torch (`pip install graphprune[torch]`), which is imported when something is called.
"""
