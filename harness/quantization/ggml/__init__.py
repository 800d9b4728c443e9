"""llama.cpp's block types: the pinned library that makes them, and weights that lie in them."""
