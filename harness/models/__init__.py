"""Loading a checkpoint as a transformers model, and finding its decoder blocks."""
