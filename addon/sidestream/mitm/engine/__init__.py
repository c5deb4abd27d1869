"""
All use of mitmproxy's private API.

mitmproxy is the host, not the limit: where hooks can't do the job, its layers are subclassed
here and nowhere else. tests/mitm/engine/test_contract.py fails when what this relies on moves.
"""
