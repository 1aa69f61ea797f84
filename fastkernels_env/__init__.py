"""fastkernels_env."""
