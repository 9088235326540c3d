"""Whether there is a display, and what SDL, which opens the window, is told before it looks."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

SOUND_CARDS = Path("/proc/asound")


def has_display() -> bool:
    """Return whether there is a display to show a window on."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def sdl_settings(
    environ: Mapping[str, str] = os.environ,
    *,
    platform: str = sys.platform,
    sound_cards: Path = SOUND_CARDS,
) -> dict[str, str]:
    """Return variables for SDL, beside those that the user has set.

    Where no display answers, SDL would draw into memory: a game at true speed that nobody sees.
    Where there is no sound card, ALSA would print a page of errors.
    """
    if platform != "linux":
        return {}
    settings = {"SDL_VIDEODRIVER": "x11,wayland"}
    runtime = Path(environ.get("XDG_RUNTIME_DIR") or "/nowhere")
    servers = [runtime / "pulse", runtime / "pipewire-0"]
    has_server = "PULSE_SERVER" in environ or any(server.exists() for server in servers)
    if not has_server and not any(sound_cards.glob("card[0-9]*")):
        settings["SDL_AUDIODRIVER"] = "dummy"
    return {name: value for name, value in settings.items() if name not in environ}
