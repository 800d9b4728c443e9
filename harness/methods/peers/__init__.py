"""Other libraries' methods behind the same contract, so that ours can be measured against them."""
