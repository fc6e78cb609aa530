"""Triage and Explain: what a failed attempt means, and what is done next."""
