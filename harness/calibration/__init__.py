"""The text that a method calibrates on: which data set, which samples, tokenized how."""
