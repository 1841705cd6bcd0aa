"""Single operations: how the time of a product, a pass over memory or a collective depends on its size."""
