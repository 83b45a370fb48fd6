"""The stages of `compile`, in order: read, choose, prove, recover, measure. Each adds to `Work`."""
