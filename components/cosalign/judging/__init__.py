"""Judgements: criteria as data, one request for all of them, verdicts that can be unknown."""
