"""The modes and difficulties of the games, as ALE has them: the console's switches.

Nothing here touches the emulator, so that a setting can be checked before anything heavy is
imported.
"""

from collections.abc import Iterator

from dqn_zoo.errors import UserError


def check_mode(game: str, mode: int | None, difficulty: int | None) -> None:
    """Refuse a mode or a difficulty that a game does not have.

    The game goes by its name in ale-py's CamelCase; None is what it starts with.

    Raises:
        UserError: with those that it has.
    """
    for name, asked, known in zip(
        ("mode", "difficulty"), (mode, difficulty), _switches(game), strict=True
    ):
        if asked is not None and asked not in _numbers(known):
            raise UserError(
                f"{game} has no {name} {asked}: expected {known.replace(',', ', ')}, or null for "
                "the one that it starts with"
            )


def _switches(game: str) -> tuple[str, str]:
    if game == "VideoCube":  # a cube of each hundred, in three modes
        return ",".join(f"{cube}-{cube + 2}" for cube in range(0, 5_001, 100)), "0-1"
    return _SWITCHES.get(game, ("0", "0"))


def _numbers(ranges: str) -> Iterator[int]:
    """Yield the numbers of "0-3,16"."""
    for each in ranges.split(","):
        first, _, last = each.partition("-")
        yield from range(int(first), int(last or first) + 1)


# Of ale-py 0.12.1; a game that is not here has mode 0 and difficulty 0 alone.
_SWITCHES: dict[str, tuple[str, str]] = {
    "Adventure": ("0-2", "0-3"),
    "AirRaid": ("1-8", "0"),
    "Alien": ("0-3", "0-3"),
    "Amidar": ("0", "0,3"),
    "Asteroids": ("0-31,128", "0,3"),
    "Atlantis": ("0-3", "0"),
    "Backgammon": ("0", "3"),
    "BankHeist": ("0,4,8,12,16,20,24,28", "0-3"),
    "BasicMath": ("5-8", "0,2-3"),
    "BattleZone": ("1-3", "0"),
    "BeamRider": ("0", "0-1"),
    "Berzerk": ("1-9,16-18", "0"),
    "Blackjack": ("0", "0-3"),
    "Bowling": ("0,2,4", "0-1"),
    "Boxing": ("0", "0-3"),
    "Breakout": ("0,4,8,12,16,20,24,28,32,36,40,44", "0-1"),
    "Casino": ("0,2-3", "0-3"),
    "Centipede": ("22,86", "0"),
    "ChopperCommand": ("0,2", "0-1"),
    "CrazyClimber": ("0-3", "0-1"),
    "Crossbow": ("0,2,4,6", "0-1"),
    "Defender": ("1-9,16", "0-1"),
    "DemonAttack": ("1,3,5,7", "0-1"),
    "DoubleDunk": ("0-15", "0"),
    "Entombed": ("0", "0,2"),
    "Et": ("0-2", "0-3"),
    "FishingDerby": ("0", "0-3"),
    "FlagCapture": ("8-10", "0"),
    "Freeway": ("0-7", "0-1"),
    "Frogger": ("0-2", "0-1"),
    "Frostbite": ("0,2", "0"),
    "Galaxian": ("1-9", "0-1"),
    "Gopher": ("0,2", "0-1"),
    "Gravitar": ("0-4", "0"),
    "Hangman": ("0-3", "0-1"),
    "HauntedHouse": ("0-8", "0-1"),
    "Hero": ("0-4", "0"),
    "HumanCannonball": ("0-7", "0-1"),
    "IceHockey": ("0,2", "0-3"),
    "Jamesbond": ("0-1", "0"),
    "JourneyEscape": ("0", "0-1"),
    "Kangaroo": ("0-1", "0"),
    "KingKong": ("0-3", "0"),
    "Klax": ("0-2", "0"),
    "LostLuggage": ("0-1", "0-1"),
    "MarioBros": ("0,2,4,6", "0"),
    "MiniatureGolf": ("0", "0-1"),
    "MrDo": ("0-3", "0"),
    "MsPacman": ("0-3", "0"),
    "NameThisGame": ("8,24,40", "0-1"),
    "Othello": ("0-2", "0,2"),
    "Pacman": ("0-7", "0-1"),
    "Pong": ("0-1", "0-3"),
    "Pooyan": ("10,30,50,70", "0"),
    "PrivateEye": ("0-4", "0-3"),
    "Qbert": ("0", "0-1"),
    "Riverraid": ("0", "0-1"),
    "Seaquest": ("0", "0-1"),
    "SpaceInvaders": ("0-15", "0-1"),
    "SpaceWar": ("6-17", "0"),
    "StarGunner": ("0-3", "0"),
    "Superman": ("0", "0-3"),
    "Surround": ("0,2", "0-3"),
    "Tennis": ("0,2", "0-3"),
    "TicTacToe3D": ("0-8", "0,2"),
    "TimePilot": ("0", "0-2"),
    "Trondead": ("0", "0-1"),
    "Turmoil": ("0-8", "0"),
    "Tutankham": ("0,4,8,12", "0"),
    "UpNDown": ("0", "0-3"),
    "Venture": ("0", "0-3"),
    "VideoCheckers": ("1-9,11-19", "0"),
    "VideoChess": ("0-4", "0"),
    "VideoPinball": ("0,2", "0-1"),
    "WizardOfWor": ("0", "0-1"),
    "WordZapper": ("0-23", "0-3"),
    "YarsRevenge": ("0,32,64,96", "0-1"),
    "Zaxxon": ("0,8,16,24", "0"),
}
