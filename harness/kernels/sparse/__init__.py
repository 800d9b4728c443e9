"""Linear layers that compute from compressed sparse weights. `docs/sparsity.md` describes layouts and kernels."""
