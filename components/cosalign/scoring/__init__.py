"""Scoring: every candidate response is judged once, whatever configs there are."""
