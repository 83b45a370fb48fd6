"""How the trained models in `models_zoo/shipped` and their data were made."""
