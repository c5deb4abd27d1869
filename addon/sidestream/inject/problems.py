"""Why a pod can't be injected: every reason at once, each with its field and what to do."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PodProblem:
    """One reason. `field` is the path in the pod."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


class Refused(ValueError):
    """A pod that can't be injected. `problems` holds all reasons."""

    def __init__(self, problems: Iterable[PodProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @classmethod
    def because(cls, field: str, message: str) -> "Refused":
        """Return it for one reason."""
        return cls([PodProblem(field, message)])
