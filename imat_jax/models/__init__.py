"""Models with one signature: `model(batch, *, deterministic, rngs=None) -> (outputs, extras)`."""
