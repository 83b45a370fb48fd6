"""What a model costs: parameters, bytes, MACs, activation memory, latency."""
