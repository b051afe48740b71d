"""What `imat_jax.serve` is made of."""
