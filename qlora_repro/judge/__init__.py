"""Judges: who says which of two answers is better, and everything between a match and a verdict."""
