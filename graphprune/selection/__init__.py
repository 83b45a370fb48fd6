"""From groups to the units that stay: scores, ratios, aligned widths, budgets."""
