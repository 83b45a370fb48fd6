"""LSTM, GRU, RNN with their layers, directions and biases in one list of weights."""

from __future__ import annotations

from graphprune.rules.aten.registry import aten_boundary

aten_boundary("lstm", "gru", "rnn_tanh", "rnn_relu", reason="placeholder")
