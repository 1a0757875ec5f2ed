"""Diagnostics: pure functions from a recording to a labelled dataset.

Numbers have standard errors. No torch, no plots.
"""
