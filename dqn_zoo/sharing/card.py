"""The card of an agent: README.md with metadata that the course's tools and the Hub's pages read.

The metadata follow the convention of RL-Zoo and the Hugging Face course: the id of the environment
as a tag, and `model-index` with the mean reward as the text "622.50 +/- 201.56".
"""

from collections.abc import Iterable, Mapping
from typing import Any

from dqn_zoo.play.results import course_verdict
from dqn_zoo.settings.checks import without_effect
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.games import FRAMES_PER_STEP, Protocol, rules_in_words
from dqn_zoo.settings.recipes import dump_config
from dqn_zoo.sharing.agent_files import CURVE, FILM, LIBRARY, SETTINGS
from dqn_zoo.sharing.card_scores import env_id

COURSE_TAGS = ("deep-reinforcement-learning", "reinforcement-learning")


def write_card(
    repo_id: str,
    config: Config,
    results: Mapping[str, Any],
    training: Mapping[str, Any],
    *,
    has_film: bool,
    has_curve: bool,
) -> str:
    """Return README.md.

    Args:
        repo_id: `owner/name`.
        config: settings of the training.
        results: content of results.json.
        training: as in config.json.
        has_film: there is a replay.mp4.
        has_curve: there is a learning_curve.png.
    """
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
    verdict = course_verdict(config.env, results["mean_minus_std"], results["n_eval_episodes"])
    return "" if verdict is None else f" (unit 3: {verdict})"


def _film(results: Mapping[str, Any], *, has_film: bool) -> str:
    if not has_film:
        return ""
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
    rows = [
        ("recipe", f"`{config.algo}`"),
        ("steps", _known(steps and f"{steps:,} ({FRAMES_PER_STEP * steps:,} frames)")),
        ("wall-clock", _known(seconds and f"{seconds / 60:,.1f} minutes")),
        ("seed", _known(training.get("seed"))),
        ("hardware", _known(", ".join(str(part) for part in machine if part) or None)),
        ("precision", _known(training.get("precision"))),
        ("versions", _known(", ".join(versions) or None)),
    ]
    return "## Training\n\n" + _table(rows)


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
