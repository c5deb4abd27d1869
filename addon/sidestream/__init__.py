"""Sidestream: governs the LLM traffic of programs that do not know it is there."""
