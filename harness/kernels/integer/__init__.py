"""Linear layers that compute from integer codes. `docs/backends.md` says which checkpoints are served with them."""
