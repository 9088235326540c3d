"""The card of an agent: README.md with metadata that the course's tools and the Hub's pages read.

The metadata follow the convention of RL-Zoo and the Hugging Face course: the id of the environment
as a tag, and `model-index` with the mean reward as the text "622.50 +/- 201.56".
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dqn_zoo.settings.checks import without_effect
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import FRAMES_PER_STEP, Protocol, rules_in_words
from dqn_zoo.settings.recipes import dump_config
from dqn_zoo.sharing.agent_files import CURVE, FILM, LIBRARY, SETTINGS

_LONGEST_CELL = 400
COURSE_TAGS = ("deep-reinforcement-learning", "reinforcement-learning")


class CardScore(NamedTuple):
    """What a card says about its agent, ours or anybody's.

    Attributes:
        mean: of the raw scores.
        std: of the population, as RL-Zoo computes it.
        library: that trained it, such as `stable-baselines3`; None where the card does not say.
        protocol: name of ours, with departures; None where the card does not say.
        num_games: that were played; None where the card does not say.
        epsilon: they were played with; None where the card does not say.
    """

    mean: float
    std: float
    library: str | None
    protocol: str | None
    num_games: int | None
    epsilon: float | None

    @property
    def mean_minus_std(self) -> float:
        """Return the result as the course counts it."""
        return self.mean - self.std


def write_card(
    repo_id: str,
    config: Config,
    results: Mapping[str, Any],
    training: Mapping[str, Any],
    *,
    has_film: bool,
    has_curve: bool,
) -> str:
    """Return README.md; `training` is that of config.json."""
    score = f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}"
    sections = [
        f"---\n{_metadata(config, results, score)}---\n",
        f"# {config.algo} playing {config.env}\n",
        f"**{score}** points over {results['n_eval_episodes']} full games; "
        f"mean - std, as the Hugging Face course counts: **{results['mean_minus_std']:.2f}**"
        f"{_course(config, results)}.\n",
        _film(results, has_film=has_film),
        _usage(repo_id),
        _score_table(results),
        _training_table(config, training),
        f"![learning curve]({CURVE})\n" if has_curve else "",
        _hyperparameters(config),
        "Only `config.json`, `model.safetensors` and `results.json` are read when this agent is "
        "loaded: tensors and plain JSON, no code. `config.json` holds the SHA-256 of all files but "
        "this one.\n",
    ]
    return "\n".join(section for section in sections if section)


def env_id(game: str, *, action_repeat_probability: float) -> str:
    """Return Gymnasium's id for a game as it is played: with sticky actions `ALE/...-v5`."""
    return f"ALE/{game}-v5" if action_repeat_probability else f"{game}NoFrameskip-v4"


def env_tags(game: str) -> tuple[str, ...]:
    """Return the ids that cards of a game carry as tags, ours first and then other libraries'."""
    ours = [env_id(game, action_repeat_probability=sticky) for sticky in (0.0, 0.25)]
    # EnvPool's ids, which CleanRL tags; Gymnasium's older ones.
    others = [f"{game}{end}" for end in ("-v5", "-v4", "-v0", "Deterministic-v4")]
    return (*ours, *others)


def read_score(card: Mapping[str, Any]) -> CardScore | None:
    """Return the first mean reward in the metadata of a card; None where there is none.

    Cards are written by anybody: whatever does not have the expected form counts as absent.
    """
    for result in _results(card):
        dataset = result.get("dataset")
        arguments = dataset.get("args") if isinstance(dataset, dict) else None
        arguments = arguments if isinstance(arguments, dict) else {}
        metrics = result.get("metrics")
        for metric in metrics if isinstance(metrics, list) else []:
            numbers = _mean_and_std(metric.get("value")) if isinstance(metric, dict) else None
            if numbers is not None and metric.get("type") in (None, "mean_reward"):
                library = card.get("library_name")
                return CardScore(
                    *numbers,
                    library=library if isinstance(library, str) else None,
                    **_conditions(arguments),
                )
    return None


def _metadata(config: Config, results: Mapping[str, Any], score: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    protocol = results["protocol"]
    environment = env_id(
        config.env, action_repeat_probability=protocol["action_repeat_probability"]
    )
    result = EvalResult(
        task_type="reinforcement-learning",
        task_name="reinforcement-learning",
        dataset_type=environment,
        dataset_name=environment,
        dataset_args={
            "protocol": rules_in_words(Protocol(**protocol)),
            "epsilon": results["epsilon"],
            "n_eval_episodes": results["n_eval_episodes"],
            "seed": results["seed"],
        },
        metric_type="mean_reward",
        metric_name="mean_reward",
        metric_value=score,
    )
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag="reinforcement-learning",
        tags=[environment, *COURSE_TAGS, LIBRARY, "atari"],
        model_name=config.algo,
        eval_results=[result],
    )
    return data.to_yaml() + "\n"


def _course(config: Config, results: Mapping[str, Any]) -> str:
    from dqn_zoo.play.results import course_verdict  # with PyTorch, which no reader of cards needs

    if not Protocol(**results["protocol"]).is_usual_game:
        return ""
    verdict = course_verdict(config.env, results["mean_minus_std"], results["n_eval_episodes"])
    return "" if verdict is None else f" (unit 3: {verdict})"


def _film(results: Mapping[str, Any], *, has_film: bool) -> str:
    if not has_film:
        return ""
    if results.get("backend") == "gymnasium":
        return f"`{FILM}` shows the agent at play with the same rules.\n"
    return (
        f"`{FILM}` shows the agent at play with the same rules, in games of their own: a film is "
        "made with another emulator backend, where the same seed is another game.\n"
    )


def _usage(repo_id: str) -> str:
    return f"""## Use it

```console
dqn-enjoy --hub {repo_id}       # watch it play, and measure it again
dqn-verify {repo_id}            # does the score below hold with fresh seeds?
dqn-pull {repo_id}              # a run folder like any other
```

```python
from dqn_zoo import load_agent

agent = load_agent("hf://{repo_id}")
```
"""


def _score_table(results: Mapping[str, Any]) -> str:
    protocol = results["protocol"]
    weights = results["weights"]
    rows = [
        ("mean +/- std", f"{results['mean_reward']:.2f} +/- {results['std_reward']:.2f}"),
        ("95 % interval of the mean", _interval(results["confidence_95"])),
        ("lowest, median, highest", _numbers(results, "min_reward", "median_reward", "max_reward")),
        ("random play, human", _numbers(results, "random_score", "human_score")),
        ("protocol", rules_in_words(Protocol(**protocol))),
        ("epsilon", f"{results['epsilon']:g}"),
        (
            "games",
            f"{results['n_eval_episodes']} full games, raw scores, seed {results['seed']} (the "
            "seed of each game is in `results.json`)",
        ),
        ("weights", f"{weights['name']}, SHA-256 `{weights['sha256'][:16]}...`"),
        ("evaluated", f"{results['eval_datetime']}, {results['cpu']}, {results['precision']}"),
    ]
    return "## Score\n\n" + _table(rows)


def _training_table(config: Config, training: Mapping[str, Any]) -> str:
    steps, seconds = training.get("steps"), training.get("seconds")
    cores = training.get("cores")
    machine = [training.get("device"), training.get("cpu"), cores and f"{cores} cores"]
    versions = [f"{name} {version}" for name, version in (training.get("versions") or {}).items()]
    parent = _literal(training.get("begins_with"))
    origin = _literal(training.get("came_from"))
    later = _literal("; ".join(training.get("later") or ()))
    rows = [
        ("recipe", f"`{config.algo}`"),
        *([] if origin is None else [("came from", origin)]),
        *([] if parent is None else [("begins with", parent)]),
        ("steps", _known(steps and f"{steps:,} ({FRAMES_PER_STEP * steps:,} frames)")),
        ("wall-clock", _known(seconds and f"{seconds / 60:,.1f} minutes")),
        ("seed", _known(_literal(training.get("seed")))),
        ("hardware", _known(_literal(", ".join(str(part) for part in machine if part)))),
        ("precision", _known(_literal(training.get("precision")))),
        *([] if later is None else [("resumed with", later)]),
        ("versions", _known(_literal(", ".join(versions)))),
    ]
    return "## Training\n\n" + _table(rows)


def _literal(value: object) -> str | None:
    """Return what somebody else wrote so that it means nothing in Markdown; None: nothing."""
    text = "" if value is None else str(value)
    plain = "".join(each for each in text if each.isprintable() and each != "`")[:_LONGEST_CELL]
    return f"`{plain}`" if plain.strip() else None


def _known(value: object) -> str:
    return "unknown" if value is None else str(value)


def _hyperparameters(config: Config) -> str:
    """Return the settings that have an effect, as YAML; config.yml has them all."""
    idle = without_effect(config)
    lines = [
        line for line in dump_config(config).splitlines() if line.partition(":")[0] not in idle
    ]
    listing = "\n".join(["```yaml", *lines, "```"])
    return (
        f"## Hyperparameters\n\n{listing}\n\nTo train it again, with another seed: "
        f"`dqn-train -c {SETTINGS} --seed N`\n"
    )


def _interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"


def _numbers(results: Mapping[str, Any], *keys: str) -> str:
    values = [results[key] for key in keys]
    return ", ".join("-" if value is None else f"{value:,.1f}" for value in values)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows]
    return "\n".join(["| | |", "| --- | --- |", *lines]) + "\n"


def _conditions(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return protocol, number of games and epsilon as far as a card says them."""
    protocol, games, epsilon = (
        arguments.get(key) for key in ("protocol", "n_eval_episodes", "epsilon")
    )
    return {
        "protocol": protocol if isinstance(protocol, str) else None,
        "num_games": games if isinstance(games, int) else None,
        "epsilon": float(epsilon) if isinstance(epsilon, int | float) else None,
    }


def _results(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the results of the first model in `model-index`, whatever else stands there."""
    match card.get("model-index"):
        case [{"results": list(results)}, *_]:
            return [result for result in results if isinstance(result, dict)]
    return []


def _mean_and_std(value: object) -> tuple[float, float] | None:
    """Read "622.50 +/- 201.56"; a number alone has no deviation and is no result."""
    number = r"([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
    match = re.fullmatch(rf"\s*{number}\s*(?:\+/-|\u00b1)\s*{number}\s*", str(value)[:100])
    if match is None:
        return None
    mean, std = float(match[1]), float(match[2])
    return (mean, std) if math.isfinite(mean) and math.isfinite(std) and std >= 0 else None
