"""What the site has beside the pages that are written by hand: pages made from the code, and a hook of mkdocs.

`python -m pages.write` writes the generated pages into `docs/`; a test holds each against the code.
"""
