"""What layers over this project's own kernels share, whatever their weights are packed as."""
