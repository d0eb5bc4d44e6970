"""Verbs of pods."""
