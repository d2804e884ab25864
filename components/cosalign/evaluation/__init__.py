"""Evaluation: answers of base and trained models, CoSA-Scores, and the report."""
