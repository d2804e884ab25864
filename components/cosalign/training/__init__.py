"""Training: pairs joined with their texts, then SFT and DPO by TRL."""
