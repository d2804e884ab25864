"""Pairing: Algorithm 1 as pure integer arithmetic over ids and masks."""
