"""What `imat_jax.sweep` is made of: the plan, the runs' states, workers, executors, search."""
