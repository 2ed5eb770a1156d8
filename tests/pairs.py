"""Combinations of answers: few renders in which each pair of values of any two questions occurs."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jinja2

from tests import harness

Answers = dict[str, Any]
Value = tuple[str, str]


def list_values() -> dict[str, list[Any]]:
    """Return the values of each question that has a limited number of them."""
    values: dict[str, list[Any]] = {}
    for name, question in harness.QUESTIONS.items():
        if name.startswith("queue_"):
            values[name] = ["run", "commented", "omit"]
        elif question["type"] == "bool":
            values[name] = [True, False]
        elif choices := question.get("choices"):
            each = list(choices.values() if isinstance(choices, dict) else choices)
            # Of a multiple choice: nothing, one of them, all.
            values[name] = [[], *([one] for one in each), each] if question.get("multiselect") else each
    return values


def list_allowed(values: Mapping[str, list[Any]]) -> list[Answers]:
    """Return each set of answers that the template accepts, with those questions alone that it asks."""
    compile_expression = jinja2.Environment(autoescape=True).compile_expression
    sets: list[Answers] = [{}]
    for name, each in values.items():
        is_asked = compile_expression(str(harness.QUESTIONS[name].get("when", "true")).strip("{} "))
        longer: list[Answers] = []
        for answers in sets:
            if is_asked(answers | {f"has_{feature}": chosen for feature, chosen in answers.items()}):
                longer += [answers | {name: value} for value in each]
            else:
                longer.append(answers)
        sets = longer
    return [answers for answers in sets if not answers["worker"] or harness.queues(answers, "run")]


def pairs_of(answers: Answers) -> frozenset[tuple[Value, Value]]:
    """Return the pairs of values in some answers."""
    values = [(name, repr(value)) for name, value in answers.items()]
    return frozenset(itertools.combinations(values, 2))


def code_of(answers: Answers) -> Answers:
    """Return what decides which Python code a project has: a commented queue has that of one that runs."""
    return {
        name: "run" if value == "commented" else value
        for name, value in answers.items()
        if name not in ("python_version", "deployment")
    }


def choose(sets: Iterable[Answers], part: Callable[[Answers], Answers]) -> list[Answers]:
    """Return sets of answers that have each pair of values of a part of them.

    Each is chosen for the most pairs that are still missing.
    """
    candidates = [(answers, pairs_of(part(answers))) for answers in sets]
    missing = set().union(*(pairs for _, pairs in candidates))
    chosen = []
    while missing:
        answers, pairs = max(candidates, key=lambda candidate: len(candidate[1] & missing))
        chosen.append(answers)
        missing -= pairs
    return chosen


def name_of(answers: Answers) -> str:
    """Return an id such as `3.12,run,commented,omit,no-jobs_api`."""
    shown = []
    for name, value in answers.items():
        if isinstance(value, bool):
            shown.append(name if value else f"no-{name}")
        else:
            text = "+".join(value) if isinstance(value, list) else value
            shown.append(f"{name.removeprefix('queue_')}={text}")
    return ",".join(shown)


COMBINATIONS = choose(list_allowed(list_values()), dict)
CODE_COMBINATIONS = choose(COMBINATIONS, code_of)
