"""The stages of `compile`: read, survey, aim, choose, prove, recover, measure. Each adds to `Work`."""
