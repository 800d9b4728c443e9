"""This machine: its files, locks and devices, and which processes of other orchestrators still live."""
