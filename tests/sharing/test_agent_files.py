"""config.json of somebody's agent, and a sweep's plan: any of them is understood or one line."""

import hashlib
import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from support.damage import damaged, outcome

from dqn_zoo.errors import UserError
from dqn_zoo.experiments.plan import read_plan
from dqn_zoo.settings.config import Config
from dqn_zoo.sharing.agent_files import LARGEST_BYTES, Description, check_listing, read_description

FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
DESCRIBED = {
    "format": 1,
    "library": "dqn-zoo",
    "config": Config(env="Pong").model_dump(mode="json"),
    "num_actions": 6,
    "training": {"steps": 7, "seconds": 1.5, "cpu": "x", "versions": {"torch": "2.10"}, "seed": 1},
    "files": {"results.json": {"size": 3, "sha256": "ab"}},
}
PLAN = {
    "games": ["Pong", "atari-3"],
    "seeds": [1, 2],
    "episodes": 3,
    "settings": {"gamma": 0.9},
    "variants": {"dqn": {"algo": "dqn"}, "double": {"algo": "dqn", "bootstrap": "double"}},
}


def signed(content: dict) -> dict:
    """Return a document whose own digest is right: an attacker can compute it, too."""
    text = json.dumps(content, sort_keys=True)
    return content | {"sha256": hashlib.sha256(text.encode()).hexdigest()}


@FEW
@given(content=damaged(DESCRIBED))
def test_a_description_is_understood_or_one_line(content, tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(signed(content)))
    found = outcome(lambda: read_description(file))
    if isinstance(found, UserError):
        assert len(str(found)) < 1_000
    else:
        assert found.config.noop_max is None or found.config.noop_max <= 1_000
        assert all(entry["size"] >= 0 for entry in found.files.values())
        f"{found.training.get('steps') or 0:,} {found.training.get('seconds') or 0.0:.1f}"


def test_a_good_description_is_read(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(signed(DESCRIBED)))
    assert isinstance(read_description(file), Description)


@FEW
@given(content=damaged(PLAN))
def test_a_plan_is_understood_or_one_line(content, tmp_path):
    file = tmp_path / "plan.yml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), errors="surrogatepass")
    plan = outcome(lambda: read_plan(file))
    if isinstance(plan, UserError):
        assert len(str(plan)) < 1_000
    else:
        assert plan.jobs()
        found = outcome(lambda: list(plan.resolved()))
        assert not isinstance(found, UserError) or len(str(found)) < 1_000


def test_a_file_whose_size_the_hub_does_not_say_is_not_downloaded():
    listing = dict.fromkeys(LARGEST_BYTES, 1)
    check_listing(listing, where="ann/dqn-Pong")
    for name in listing:
        with pytest.raises(UserError, match=f"does not say how large {name} is: not loaded"):
            check_listing(listing | {name: None}, where="ann/dqn-Pong")
