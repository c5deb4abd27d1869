"""`sidestream demo`: the main job, with stand-in providers."""

import argparse


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `demo` to the command."""
