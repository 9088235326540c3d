// The connection to the server: notices are objects, pictures have a head and bytes.

const words = {
  4001: "16 pages are open, as many as dqn-watch serves: close one, and load this page again",
  4002: "this game has ended, because it was left alone or had lasted long: load this page to begin another",
  4003: "all games are taken: wait, this page tries again every 15 seconds",
  4008: "this page sent too much, and was closed: load it again",
};

export const lost = "the connection is lost: load this page again; if dqn-watch has ended, it opens a new one at another address";

const token = new URLSearchParams(location.search).get("token") ?? "";

// An address here, with the token.
export function link(path, more = {}) {
  return `${path || "."}?${new URLSearchParams({token, ...more})}`;
}

export function linkPages() {
  for (const each of document.querySelectorAll("a[data-page]")) each.href = link(each.dataset.page);
}

// runs: names of which the address has many.
export async function ask(path, more = {}, runs = []) {
  const answer = await fetch(link(path, more) + runs.map(run => `&run=${encodeURIComponent(run)}`).join(""));
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

export class Connection {
  constructor({opened, notice, picture, closed}) {
    const address = new URL(link("play"), location.href);
    address.protocol = address.protocol.replace("http", "ws");
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.addEventListener("open", opened);
    this.socket.addEventListener("message", event =>
      typeof event.data === "string" ? notice(JSON.parse(event.data)) : picture(...readPictures(event.data)));
    this.socket.addEventListener("close", event =>
      closed(words[event.code] ?? lost, event.code));
  }

  tell(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }
}

const side = 84;

// A message holds one picture, or in a duel one of each side.
export function readPictures(buffer) {
  const pictures = [];
  let at = 0;
  const take = size => {
    at += size;
    return new Uint8Array(buffer, at - size, size);
  };
  while (at < buffer.byteLength) {
    const length = new DataView(buffer).getUint32(at, true);
    at += 4;
    const head = JSON.parse(new TextDecoder().decode(take(length)));
    const frames = Array.from({length: head.stack}, () => take(side * side));
    const screens = Array.from({length: head.screens}, () => take(head.height * 160 * 3));
    pictures.push({...head, frames, screens});
  }
  return pictures;
}
