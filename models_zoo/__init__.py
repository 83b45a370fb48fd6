"""Models to try graphprune on: trained ones that ship, their recipes, builders of many more."""
