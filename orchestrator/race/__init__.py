"""A race on a manifest: what it asks for is measured as far as the answer needs it, and no further."""
