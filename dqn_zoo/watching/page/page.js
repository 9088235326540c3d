// What the pages have in common.

export const by = id => document.getElementById(id);
export const whole = new Intl.NumberFormat("en", {maximumFractionDigits: 0});

export function say(text) {
  by("message").textContent = text;
  by("message").hidden = !text;
}

// Does something now, or as soon as somebody sees the page.
export function whenSeen(act) {
  if (document.hidden) document.addEventListener("visibilitychange", () => whenSeen(act), {once: true});
  else act();
}

// A page that nobody sees stands still. plays() says whether it plays, and toggle() changes that; the function that is
// returned looks after a game that has just begun.
export function standStillUnseen(plays, toggle) {
  let wasPlaying = false;
  const look = () => {
    if (!document.hidden) {
      if (wasPlaying && !plays()) toggle();
      wasPlaying = false;
    } else if (plays()) {
      wasPlaying = true;
      toggle();
    }
  };
  document.addEventListener("visibilitychange", look);
  return look;
}
