"""Admit: checks a run, estimates it, and refuses it or writes its plan."""
