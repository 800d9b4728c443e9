"""A stand-in for MLC-LLM with the arguments of its commands and of its engine, and their rules, and nothing else.

From mlc-ai/mlc-llm: `cli/convert_weight.py`, `cli/gen_config.py`, `cli/compile.py`, `serve/engine.py`
(`AsyncMLCEngine`, `AsyncCompletion.create`), `serve/config.py`, `protocol/debug_protocol.py`,
`protocol/openai_api_protocol.py`.
"""
