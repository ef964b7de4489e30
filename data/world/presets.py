"""The worlds that have a name.

The numbers are fixed by what services look like from outside (tests/data/world/test_marginals.py holds them to
published ranges) and by how far hidden truth can move them (the oracle); no learned policy had a say in them.

* `clickbait`: what is tapped is not what brings people back (allure and quality pull against each other);
* `calm`: allure and quality mildly agree, so the tap is an honest if weak signal;
* `discovery`: new creators are an acquired taste; who finds some that stick has a reason to come back;
* `commuter`: most people have a commute, and its habit, fed by spoken word, carries the day;
* `messaging`: `clickbait` with push messages, e-mails and messages in the app;
* `null`: visits are deaf to what was played. Every claim about return must vanish here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from data.world.settings import OracleSettings, WorldSettings, nothing_matters

_CLICKBAIT = WorldSettings()
_CATALOG, _PEOPLE, _DYNAMICS = _CLICKBAIT.catalog, _CLICKBAIT.people, _CLICKBAIT.dynamics

PRESETS: Mapping[str, WorldSettings] = MappingProxyType(
    {
        "clickbait": _CLICKBAIT,
        "calm": replace(
            _CLICKBAIT,
            name="calm",
            catalog=replace(_CATALOG, allure_quality_correlation=0.25),
            people=replace(_PEOPLE, visit_logit_mean=-2.9),
            dynamics=replace(_DYNAMICS, complete_base=-0.2),
        ),
        "discovery": replace(
            _CLICKBAIT,
            name="discovery",
            catalog=replace(_CATALOG, allure_quality_correlation=0.0, creator_share=0.7),
            people=replace(_PEOPLE, visit_logit_mean=-2.8),
            dynamics=replace(
                _DYNAMICS, exposure_cost=1.0, visit_favourites=1.4, enjoy_base=1.0, exposure_forgetting=0.015
            ),
            oracle=OracleSettings(discovery=0.2),
        ),
        "commuter": replace(
            _CLICKBAIT,
            name="commuter",
            catalog=replace(_CATALOG, kind_shares=(("track", 0.6), ("podcast", 0.28), ("audiobook", 0.12))),
            people=replace(_PEOPLE, visit_logit_mean=-2.9, commuters=0.75, commute_logit=1.2),
            dynamics=replace(_DYNAMICS, commute_match=1.2, commute_gain=2.0, commute_spill=1.2, visit_habit=2.6),
        ),
        "messaging": replace(
            _CLICKBAIT,
            name="messaging",
            people=replace(_PEOPLE, visit_logit_mean=-2.55),
            switches=replace(_CLICKBAIT.switches, messages=True),
        ),
        "null": nothing_matters(replace(_CLICKBAIT, people=replace(_PEOPLE, visit_logit_mean=-2.1))),
    }
)
