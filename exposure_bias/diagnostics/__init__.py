"""Diagnostics: pure functions from a recording to a labelled dataset with standard errors. No
torch, no plots.
"""
