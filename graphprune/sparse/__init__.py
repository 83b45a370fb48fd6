"""Storing tensors of many zeros: the cheapest format of each, one compact file, sparse_initializer."""
