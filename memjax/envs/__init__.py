"""Environments: data sets as host records."""
