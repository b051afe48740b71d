"""Corpora as TFDS datasets of ragged SSL features, and the batches that training reads."""
