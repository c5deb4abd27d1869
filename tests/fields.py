"""
The fields of the access log in the README, written from the code.

    python -m tests.fields      write them anew
"""

import ast
import inspect
import itertools
from pathlib import Path

from sidestream.core.exchange import Record

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- fields of the access log: python -m tests.fields -->\n", "<!-- end of fields -->\n"


def table() -> str:
    """Return the fields as a table, each with what stands below it in the code."""
    [cls] = ast.parse(inspect.getsource(Record)).body
    lines = ["| field | meaning |", "| --- | --- |"]
    for statement, following in itertools.pairwise(cls.body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(meaning))):
                lines.append(f"| `{name}` | {meaning} |")
    return "\n".join(lines) + "\n"


def with_table(text: str) -> str:
    """Return the README's `text` with the table as it must be."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return before + begin + table() + end + after


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
