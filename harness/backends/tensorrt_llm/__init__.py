"""TensorRT-LLM as a deployment backend, through its offline `LLM` class on PyTorch. Not run by us."""
