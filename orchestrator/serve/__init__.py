"""`orchestrator serve`: a page of a store for a browser. It reads, as `status` and `report` do, and changes nothing.

What is shown comes from others: from runs that go on meanwhile, and from workers that nobody has to trust. So every
text is bounded, without control characters and escaped, and what cannot be read is named where it would stand.

Starlette and uvicorn are an optional extra (`pip install 'llmcbench[serve]'`).
"""
