"""
Where the product is decided: standard library only, no I/O, no clock, no randomness, no logging.

document → snapshot → decision → plan → attempt → exchange → record
"""
