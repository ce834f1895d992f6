"""Thousands of rounds of a federation whose peers come, leave and are killed: does anything grow that should not?"""
