"""Trimming the vocabulary of a model and its tokenizer to the tokens of a corpus."""
