from dataclasses import replace

from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import PROTOCOLS, protocol_from_config


def test_settings_override_only_what_they_name_in_a_protocol():
    config = Config(protocol="machado", noop_max=7, eval_epsilon=0.05, max_frames=900)
    expected = replace(PROTOCOLS["machado"], noop_max=7, eval_epsilon=0.05, max_frames=900)
    assert protocol_from_config(config) == expected
    zero = Config(protocol="zoo", noop_max=0, terminal_on_life_loss=False, eval_epsilon=0.0)
    assert protocol_from_config(zero).noop_max == 0
    assert protocol_from_config(zero).eval_epsilon == 0.0
    assert protocol_from_config(zero).terminal_on_life_loss is False
    assert protocol_from_config(Config()) == PROTOCOLS["zoo"]


def test_the_protocols_differ_where_the_literature_says():
    zoo, machado = PROTOCOLS["zoo"], PROTOCOLS["machado"]
    assert (zoo.action_repeat_probability, zoo.noop_max, zoo.eval_epsilon) == (0.0, 30, 0.01)
    assert (machado.action_repeat_probability, machado.noop_max) == (0.25, 0)
    assert machado.eval_epsilon == 0.001
    assert (zoo.terminal_on_life_loss, machado.terminal_on_life_loss) == (True, False)
    assert (zoo.fire, machado.fire) == (True, False)
    assert all(name == protocol.name for name, protocol in PROTOCOLS.items())
