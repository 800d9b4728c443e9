"""A result's figures, computed again from what was kept of its parts: nothing that a worker summed up is believed."""
