"""Loads of any kind, with any faults, against the model. See ``invariants.py`` for the rules."""

from __future__ import annotations

import os
import pprint
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, settings

from . import strategies
from .invariants import broken
from .scenario import Scenario
from .story import Story, folder, summary_of

FUZZ = "CRM_FUZZ_EXAMPLES"
"""Number of examples of ``make fuzz``. This test runs ten times as many, since each takes milliseconds."""

EXAMPLES = 800


def check(scenario: Scenario) -> None:
    """Play a scenario.

    :raises AssertionError: with the scenario as data, if an invariant does not hold
    """
    with folder() as path:
        story = Story(scenario, Path(path))
        for place, spec in enumerate(scenario.loads):
            for reported in story.play(spec, place):
                if found := broken(reported):
                    rules = "\n".join(f"{name}: {why}" for name, why in found.items())
                    shown = pprint.pformat(scenario, width=140, sort_dicts=False)
                    raise AssertionError(f"{rules}\n\n{shown}\n\nload {place}\n{summary_of(reported)}")


@settings(
    max_examples=10 * int(os.environ[FUZZ]) if FUZZ in os.environ else EXAMPLES,
    derandomize=FUZZ not in os.environ,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(strategies.scenarios)
def test_loads_end_as_the_model_says(scenario: Scenario) -> None:
    check(scenario)
