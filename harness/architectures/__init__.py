"""What a model is by its configuration: its shape, where its decoder blocks are, widths that differ by layer."""
