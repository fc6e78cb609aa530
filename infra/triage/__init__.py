"""Triage and Explain: the class of a failed attempt, the next step, and the explanation."""
