"""The games: their names, human and random scores.

Nothing here touches the emulator, so that names can be checked before anything heavy is imported.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from dqn_zoo.errors import UserError, short

COURSE_GAME = "SpaceInvaders"
COURSE_GAMES = 10
COURSE_PASS_MARK = 200.0
"""Unit 3 of the Hugging Face deep RL course is passed with mean - std >= 200 in Space Invaders, as
RL-Zoo measures it when it uploads an agent: in ten games."""


@dataclass(frozen=True, slots=True)
class GameName:
    """A game as the user named it: its name, its ROM and the protocol the spelling implies."""

    game: str
    rom: str
    implied_protocol: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GameScores:
    """Mean raw score of uniformly random play and of a human tester."""

    random: float
    human: float


def parse_game(text: str) -> GameName:
    """Read a game's name in any spelling in use.

    Accepted: SpaceInvaders, space_invaders, spaceinvaders, and the ids of Gymnasium, also as names
    of folders have them (ALE-Pong-v5). An id also implies a protocol: version 4 has no sticky
    actions ("zoo"), versions 0 and 5 have them ("machado"). The frame skip in an id has no meaning
    here: a step is always 4 frames.

    Raises:
        UserError: no such game, with the nearest name; or an id that does not exist.
    """
    match = _GAME_ID.fullmatch(text.strip())
    game = _fold_to_game().get(_fold(match["name"])) if match else None
    if match is None or game is None:
        raise UserError(_unknown_game(text))
    if match["ram"]:
        raise UserError(
            f"{short(text)} shows the memory, and agents here see the screen: use {game}"
        )
    implied = _implied_protocol(match)
    if implied == "unknown":
        raise UserError(
            f"no environment is called {short(text)}: use {game}, {game}NoFrameskip-v4 or "
            f"ALE/{game}-v5"
        )
    return GameName(game, GAMES[game], implied)


def parse_folder(name: str) -> GameName:
    """Read the game in the name of a run folder: Pong_1, RL-Zoo's ALE-Pong-v5_1 and ..._1_UUID.

    Raises:
        UserError: as `parse_game`.
    """
    return parse_game(_NUMBER.sub("", name))


def game_in_path(file: Path) -> GameName | None:
    """Return the game in RL-Zoo's names: of `dqn-GAMENoFrameskip-v4.zip`, or of its folder."""
    for name in (file.stem, file.absolute().parent.name):
        with suppress(UserError):
            return parse_folder(re.sub(r"^dqn[-_]", "", name))
    return None


def random_score(game: str) -> float | None:
    """Return the mean raw score of random play, None where no one published it."""
    scores = SCORES.get(game)
    return None if scores is None else scores.random


def human_normalized_score(game: str, score: float) -> float | None:
    """Return (score - random) / (human - random): 0 is random play, 1 is the human tester.

    None where the table has no such game (it covers the 57 games of the literature).
    """
    scores = SCORES.get(game)
    return None if scores is None else (score - scores.random) / (scores.human - scores.random)


_GAME_ID = re.compile(
    r"(?P<namespace>ALE[/-])?(?P<name>[A-Za-z0-9_ -]+?)"
    r"(?P<ram>-ram)?(?P<frame_skip>NoFrameskip|Deterministic)?(?:-v(?P<version>\d+))?"
)

_NUMBER = re.compile(r"_\d+(_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})?$")
"""What follows the game in the name of a run folder."""


def _implied_protocol(match: re.Match[str]) -> str | None:
    """Map the parts of an id to a protocol; "unknown" for a combination that never existed."""
    if match["version"] is None:
        return "machado" if match["namespace"] else "zoo" if match["frame_skip"] else None
    if match["frame_skip"] and match["version"] == "5":
        return "unknown"
    return {"0": "machado", "4": "zoo", "5": "machado"}.get(match["version"], "unknown")


def _fold(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _fold_to_game() -> dict[str, str]:
    return {_fold(game): game for game in GAMES}


def _unknown_game(text: str) -> str:
    name = re.sub(r"^ALE/|(NoFrameskip|Deterministic)?(-v\d+)?$", "", text.strip())
    near = get_close_matches(_fold(name), _fold_to_game(), n=1)
    hint = (
        f"did you mean {_fold_to_game()[near[0]]}?"
        if near
        else "try SpaceInvaders, Breakout or Pong"
    )
    expected = f"expected one of the {len(GAMES)} Atari games of ale-py"
    return f"unknown game {short(text)}: {expected}; {hint}"


# The name in Gymnasium's ids and the name of the ROM.
GAMES: dict[str, str] = {
    "Adventure": "adventure",
    "AirRaid": "air_raid",
    "Alien": "alien",
    "Amidar": "amidar",
    "Assault": "assault",
    "Asterix": "asterix",
    "Asteroids": "asteroids",
    "Atlantis": "atlantis",
    "Atlantis2": "atlantis2",
    "Backgammon": "backgammon",
    "BankHeist": "bank_heist",
    "BasicMath": "basic_math",
    "BattleZone": "battle_zone",
    "BeamRider": "beam_rider",
    "Berzerk": "berzerk",
    "Blackjack": "blackjack",
    "Bowling": "bowling",
    "Boxing": "boxing",
    "Breakout": "breakout",
    "Carnival": "carnival",
    "Casino": "casino",
    "Centipede": "centipede",
    "ChopperCommand": "chopper_command",
    "CrazyClimber": "crazy_climber",
    "Crossbow": "crossbow",
    "Darkchambers": "darkchambers",
    "Defender": "defender",
    "DemonAttack": "demon_attack",
    "DonkeyKong": "donkey_kong",
    "DoubleDunk": "double_dunk",
    "Earthworld": "earthworld",
    "ElevatorAction": "elevator_action",
    "Enduro": "enduro",
    "Entombed": "entombed",
    "Et": "et",
    "FishingDerby": "fishing_derby",
    "FlagCapture": "flag_capture",
    "Freeway": "freeway",
    "Frogger": "frogger",
    "Frostbite": "frostbite",
    "Galaxian": "galaxian",
    "Gopher": "gopher",
    "Gravitar": "gravitar",
    "Hangman": "hangman",
    "HauntedHouse": "haunted_house",
    "Hero": "hero",
    "HumanCannonball": "human_cannonball",
    "IceHockey": "ice_hockey",
    "Jamesbond": "jamesbond",
    "JourneyEscape": "journey_escape",
    "Kaboom": "kaboom",
    "Kangaroo": "kangaroo",
    "KeystoneKapers": "keystone_kapers",
    "KingKong": "king_kong",
    "Klax": "klax",
    "Koolaid": "koolaid",
    "Krull": "krull",
    "KungFuMaster": "kung_fu_master",
    "LaserGates": "laser_gates",
    "LostLuggage": "lost_luggage",
    "MarioBros": "mario_bros",
    "MiniatureGolf": "miniature_golf",
    "MontezumaRevenge": "montezuma_revenge",
    "MrDo": "mr_do",
    "MsPacman": "ms_pacman",
    "NameThisGame": "name_this_game",
    "Othello": "othello",
    "Pacman": "pacman",
    "Phoenix": "phoenix",
    "Pitfall": "pitfall",
    "Pitfall2": "pitfall2",
    "Pong": "pong",
    "Pooyan": "pooyan",
    "PrivateEye": "private_eye",
    "Qbert": "qbert",
    "Riverraid": "riverraid",
    "RoadRunner": "road_runner",
    "Robotank": "robotank",
    "Seaquest": "seaquest",
    "SirLancelot": "sir_lancelot",
    "Skiing": "skiing",
    "Solaris": "solaris",
    "SpaceInvaders": "space_invaders",
    "SpaceWar": "space_war",
    "StarGunner": "star_gunner",
    "Superman": "superman",
    "Surround": "surround",
    "Tennis": "tennis",
    "Tetris": "tetris",
    "TicTacToe3D": "tic_tac_toe_3d",
    "TimePilot": "time_pilot",
    "Trondead": "trondead",
    "Turmoil": "turmoil",
    "Tutankham": "tutankham",
    "UpNDown": "up_n_down",
    "Venture": "venture",
    "VideoCheckers": "video_checkers",
    "VideoChess": "video_chess",
    "VideoCube": "video_cube",
    "VideoPinball": "video_pinball",
    "WizardOfWor": "wizard_of_wor",
    "WordZapper": "word_zapper",
    "YarsRevenge": "yars_revenge",
    "Zaxxon": "zaxxon",
}

# Random play and the human tester of Mnih et al. 2015, completed to 57 games in DeepMind's DQN Zoo
# (atari_data.py). In VideoPinball the two are close, so that its normalized score is unstable.
SCORES: dict[str, GameScores] = {
    "Alien": GameScores(random=227.8, human=7127.7),
    "Amidar": GameScores(random=5.8, human=1719.5),
    "Assault": GameScores(random=222.4, human=742.0),
    "Asterix": GameScores(random=210.0, human=8503.3),
    "Asteroids": GameScores(random=719.1, human=47388.7),
    "Atlantis": GameScores(random=12850.0, human=29028.1),
    "BankHeist": GameScores(random=14.2, human=753.1),
    "BattleZone": GameScores(random=2360.0, human=37187.5),
    "BeamRider": GameScores(random=363.9, human=16926.5),
    "Berzerk": GameScores(random=123.7, human=2630.4),
    "Bowling": GameScores(random=23.1, human=160.7),
    "Boxing": GameScores(random=0.1, human=12.1),
    "Breakout": GameScores(random=1.7, human=30.5),
    "Centipede": GameScores(random=2090.9, human=12017.0),
    "ChopperCommand": GameScores(random=811.0, human=7387.8),
    "CrazyClimber": GameScores(random=10780.5, human=35829.4),
    "Defender": GameScores(random=2874.5, human=18688.9),
    "DemonAttack": GameScores(random=152.1, human=1971.0),
    "DoubleDunk": GameScores(random=-18.6, human=-16.4),
    "Enduro": GameScores(random=0.0, human=860.5),
    "FishingDerby": GameScores(random=-91.7, human=-38.7),
    "Freeway": GameScores(random=0.0, human=29.6),
    "Frostbite": GameScores(random=65.2, human=4334.7),
    "Gopher": GameScores(random=257.6, human=2412.5),
    "Gravitar": GameScores(random=173.0, human=3351.4),
    "Hero": GameScores(random=1027.0, human=30826.4),
    "IceHockey": GameScores(random=-11.2, human=0.9),
    "Jamesbond": GameScores(random=29.0, human=302.8),
    "Kangaroo": GameScores(random=52.0, human=3035.0),
    "Krull": GameScores(random=1598.0, human=2665.5),
    "KungFuMaster": GameScores(random=258.5, human=22736.3),
    "MontezumaRevenge": GameScores(random=0.0, human=4753.3),
    "MsPacman": GameScores(random=307.3, human=6951.6),
    "NameThisGame": GameScores(random=2292.3, human=8049.0),
    "Phoenix": GameScores(random=761.4, human=7242.6),
    "Pitfall": GameScores(random=-229.4, human=6463.7),
    "Pong": GameScores(random=-20.7, human=14.6),
    "PrivateEye": GameScores(random=24.9, human=69571.3),
    "Qbert": GameScores(random=163.9, human=13455.0),
    "Riverraid": GameScores(random=1338.5, human=17118.0),
    "RoadRunner": GameScores(random=11.5, human=7845.0),
    "Robotank": GameScores(random=2.2, human=11.9),
    "Seaquest": GameScores(random=68.4, human=42054.7),
    "Skiing": GameScores(random=-17098.1, human=-4336.9),
    "Solaris": GameScores(random=1236.3, human=12326.7),
    "SpaceInvaders": GameScores(random=148.0, human=1668.7),
    "StarGunner": GameScores(random=664.0, human=10250.0),
    "Surround": GameScores(random=-10.0, human=6.5),
    "Tennis": GameScores(random=-23.8, human=-8.3),
    "TimePilot": GameScores(random=3568.0, human=5229.2),
    "Tutankham": GameScores(random=11.4, human=167.6),
    "UpNDown": GameScores(random=533.4, human=11693.2),
    "Venture": GameScores(random=0.0, human=1187.5),
    "VideoPinball": GameScores(random=16256.9, human=17667.9),
    "WizardOfWor": GameScores(random=563.5, human=4756.5),
    "YarsRevenge": GameScores(random=3092.9, human=54576.9),
    "Zaxxon": GameScores(random=32.5, human=9173.3),
}
