"""
What an exchange cost, by public prices.

Prices are those of the package `genai-prices` (extra `cost`), as they were when it was released;
nobody is asked for newer ones. What it does not know costs ``None``, never 0: a model of one's own, and a
provider that it does not list, whatever its models are called.
"""

import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from math import isclose

from sidestream.core.exchange import Record

_PROVIDERS = {
    "azure.ai.openai": "azure",
    "gcp.gemini": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshotai",
    "together_ai": "together",
    "x_ai": "x-ai",
    "zhipu_ai": "zhipuai",
}
"""Our word for a system → the package's, where they differ."""

KEPT_SECONDS = 3600.0
"""How long a price is taken for granted: some depend on the time of day."""
MAX_KEPT = 1000
"""How many are kept: what providers call their models is theirs to say."""
_MANY = 10_000_000
"""Tokens at which every step of a price is reached."""


class CostError(ValueError):
    """Prices can't be had; the message says what to do."""


type Formula = Callable[[int, int, int], float | None]
"""Tokens of the prompt, of them cached, and of the answer → dollars."""


class Pricing:
    """
    Adds the cost to records.

    Raises:
        CostError: the package is not installed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        if find_spec("genai_prices") is None:
            raise CostError("costs need the package genai-prices: install sidestream[cost]")
        self._clock = clock
        self._formulas: dict[tuple[str, str], tuple[Formula, float]] = {}

    def __call__(self, record: Record) -> Record:
        """Return `record` with its cost, where that is known."""
        cost = self._cost(record)
        return record if cost is None else record.priced(round(cost, 9))

    def _cost(self, record: Record) -> float | None:
        if record.usage_partial is not False or record.prompt_tokens is None or record.provider_system is None:
            return None
        system = _PROVIDERS.get(record.provider_system, record.provider_system)
        cached = min(record.cached_tokens or 0, record.prompt_tokens)
        tokens = record.prompt_tokens, cached, record.completion_tokens or 0
        models = filter(None, (record.response_model, record.sent_model))
        costs = (self._formula(system, model)(*tokens) for model in models)
        return next((cost for cost in costs if cost is not None), None)

    def _formula(self, system: str, model: str) -> Formula:
        now = self._clock()
        formula, until = self._formulas.get((system, model), (_unknown, now))
        if now >= until:
            if len(self._formulas) >= MAX_KEPT:
                self._formulas.clear()
            formula = _formula(system, model)
            self._formulas[system, model] = formula, now + KEPT_SECONDS
        return formula


def _formula(system: str, model: str) -> Formula:
    """
    Return how a model is priced.

    The package takes a quarter of a millisecond for each price. Nearly all are so much for each token, which is found
    out once; the others have steps.
    """
    few, many = _price(system, model, 1000, 0, 0), _price(system, model, _MANY, 0, 0)
    if few is None or many is None:
        return _unknown
    of_cached, of_answer = _price(system, model, 1000, 1000, 0), _price(system, model, 0, 0, 1000)
    if of_cached is None or of_answer is None or not isclose(few / 1000, many / _MANY):
        return partial(_price, system, model)
    prompt_rate, cached_rate, answer_rate = few / 1000, of_cached / 1000, of_answer / 1000

    def linear(prompt: int, cached: int, completion: int) -> float:
        return (prompt - cached) * prompt_rate + cached * cached_rate + completion * answer_rate

    return linear


def _unknown(*_: int) -> None:
    return None


def _price(system: str, model: str, prompt: int, cached: int, completion: int) -> float | None:
    from genai_prices import Usage, calc_price  # noqa: PLC0415 it takes half a second, and 30 MB

    try:
        usage = Usage(input_tokens=prompt, cache_read_tokens=cached, output_tokens=completion)
        return float(calc_price(usage, model, provider_id=system).total_price)
    except Exception:  # noqa: BLE001 whatever a table of others does, no record is lost to it
        return None
