"""How much a model loses when one group alone is pruned: damage curves, the source of ratios."""
