"""Scores of units from calibration inputs: what the layers that read a unit would lose."""
