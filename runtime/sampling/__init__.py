"""Sampling parameters, the rules that follow from them, and the definition of sampling."""
