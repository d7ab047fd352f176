// The live page. No request to any other host. Its charts are in charts.js.
"use strict";

// What it asks for is beside this file, wherever that is.
const base = document.currentScript.src;
const find = (id) => document.getElementById(id);
const COLOURS = [
  "#4c6fff", "#e07a1f", "#2a9d62", "#b13fb8", "#d1495b", "#00899e", "#8a7a00", "#777788",
];
const colour = (path) => COLOURS[path % COLOURS.length];
const MAX_EVENTS = 50;

let token = sessionStorage.getItem("token") || "";
let chosen = location.hash.slice(1);
const charts = new Charts(find("charts"), colour); // Of the chosen session.
let listening = false;

async function ask(path, method = "GET", body = undefined) {
  const headers = token ? { Authorization: "Bearer " + token } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const text = body && JSON.stringify(body);
  const answer = await fetch(new URL(path, base), { method, headers, body: text });
  if (answer.status === 401) {
    find("login").hidden = false;
    throw new Error("a token is needed");
  }
  const value = await answer.json();
  if (!answer.ok) throw new Error(value.error || answer.statusText);
  return value;
}

// Foreign text is only ever set as text.
function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function bytes(count) {
  if (count === null || count === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (count >= 1024 && unit + 1 < units.length) { count /= 1024; unit += 1; }
  return count.toFixed(unit ? 1 : 0) + " " + units[unit];
}
const rate = (count) => (count ? (count * 8e-6).toFixed(1) + " Mbit/s" : "–");
const millis = (seconds) =>
  (seconds === null || seconds === undefined ? "–" : (seconds * 1e3).toFixed(1) + " ms");

function say(text, bad = false) {
  find("state").textContent = text;
  find("state").className = bad ? "bad" : "";
}

async function command(text, path, body) {
  if (!confirm(text + "?")) return;
  try {
    await ask(path, "POST", body);
    say(text + ": done");
    await look();
  } catch (error) {
    say(text + ": " + error.message, true);
  }
}

function button(text, label, action) {
  const made = element("button", text, { type: "button", "aria-label": label });
  made.addEventListener("click", action);
  return made;
}

function put(node, text) {
  if (node.textContent !== String(text)) node.textContent = text;
}

function mark(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

// What shows the same thing as before stays, and only what differs in it changes: so the focus, a
// selection, and a button that is held down stay, too.
function fill(body, items, key, make, update) {
  const left = new Map([...body.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, at) => {
    const name = String(key(item));
    const child = left.get(name) || make(item);
    child.dataset.key = name;
    left.delete(name);
    if (body.children[at] !== child) body.insertBefore(child, body.children[at] || null);
    update(child, item);
  });
  for (const child of left.values()) child.remove();
}

// A row with so many cells after the first.
function tableRow(first, count) {
  const row = element("tr");
  const name = element("td");
  name.append(...first);
  row.append(name, ...Array.from({ length: count }, () => element("td", "")));
  return row;
}

function putCells(row, texts) {
  texts.forEach((text, at) => put(row.children[at + 1], text));
}

function swatch(path) {
  const made = element("span", "", { class: "swatch" });
  // A style attribute is forbidden here by the page's own policy, and a property is not.
  made.style.background = colour(path);
  return made;
}

function choose(name) {
  chosen = name;
  charts.clear();
  location.hash = name;
  look();
}

function showSessions(list) {
  find("none").hidden = list.length > 0;
  const make = ({ name }) =>
    tableRow([button(name, "Show session " + name, () => choose(name))], 6);
  fill(find("sessions"), list, (session) => session.name, make, (row, session) => {
    const limit = session.limited_by ? session.limited_by.text : "–";
    putCells(row, [session.role, session.remote || "–", session.paths ?? "–",
      session.streams ?? "–", rate(session.bytes_per_second), limit]);
    mark(row, "class", session.name === chosen ? "chosen" : null);
    mark(row, "aria-current", session.name === chosen ? "true" : null);
  });
}

function pathRow(session, path) {
  const row = tableRow([swatch(path.path), String(path.path)], 8);
  row.dataset.path = path.path;
  const below = "api/v1/sessions/" + session.name + "/paths/" + path.path;
  const order = (word) => {
    const text = word + " path " + path.path;
    return button(word, text, () => command(text, below + "/" + word.toLowerCase(), {}));
  };
  row.lastChild.append(order("Remove"), " ", order("Kill"));
  return row;
}

function showPaths(session) {
  // Of another session, a path of the same number is another.
  const key = (path) => session.name + " " + path.path;
  const make = (path) => pathRow(session, path);
  fill(find("paths"), session.paths || [], key, make, (row, path) => {
    const share = path.packets_lost / path.packets_sent * 100;
    const lost = path.packets_sent ? share.toFixed(1) + " %" : "–";
    // A primary is told by its client what others bring; of its own it knows what it sends.
    const own = path.path === 0 && session.role === "primary";
    putCells(row, [path.address || "primary", path.status, rate(path.bytes_per_second),
      millis(path.rtt), millis(path.queue_seconds), lost,
      bytes(own ? session.sent : path.received)]);
    const bad = path.status === "dead" || path.status === "degraded";
    mark(row.children[2], "class", bad ? "bad" : null);
    mark(row.children[2], "title", path.reason || null);
    const orders = session.role === "primary" && path.path !== 0 && !path.ended;
    for (const one of row.querySelectorAll("button")) {
      one.hidden = !orders || path.status === "dead";
    }
  });
}

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

// Offsets across: what was read, what is held and by whom it was brought, what is asked of whom.
function showStreams(session) {
  const maps = [];
  for (const stream of session.streams || []) {
    const receives = stream.receives;
    if (receives) {
      const size = receives.size || Math.max(receives.granted, receives.end);
      const parts = [[null, 0, receives.read, 0.25]];
      parts.push(...receives.held.map(([path, from, to]) => [path, from, to, 1]));
      parts.push(...receives.asked.map(([path, from, to]) => [path, from, to, 0.35]));
      const text = stream.stream + ": read " + bytes(receives.read) + " of " + bytes(size) + ", " +
        receives.gaps + " holes, from " +
        receives.sources.map(([path, count]) => "path " + path + " " + bytes(count)).join(", ");
      maps.push([stream.stream, text, size, parts]);
    }
    const leases = (session.leases || []).filter((lease) => lease.stream === stream.stream);
    if (stream.sends && leases.length) {
      const size = Math.max(stream.sends.written, ...leases.map((lease) => lease.to));
      const leased = leases.map((lease) => [lease.path, lease.from, lease.to, 0.6]);
      const parts = [[null, 0, stream.sends.written, 0.1], ...leased];
      const text = stream.stream + ": " + leases.length + " leases of " + bytes(size);
      maps.push([stream.stream + " sent", text, size, parts]);
    } else if (stream.sends) {
      const { written, credit } = stream.sends;
      const text = stream.stream + ": written " + bytes(written) + ", may write " +
        bytes(credit) + " more";
      maps.push([stream.stream + " sent", text, 0, []]);
    }
  }
  const make = ([, , size]) => {
    const figure = element("figure");
    figure.append(element("figcaption"));
    if (size) {
      const box = { viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img" };
      const drawn = svg("svg", { class: "map", ...box });
      drawn.append(svg("title", {}), svg("g", {}));
      figure.append(drawn);
    }
    return figure;
  };
  const key = ([name, , size]) => session.name + " " + name + (size ? " map" : "");
  fill(find("streams"), maps, key, make, (figure, [, text, size, parts]) => {
    put(figure.firstChild, text);
    if (!size) return;
    put(figure.querySelector("title"), text);
    // Leases overlap: each path has a row of its own.
    const paths = [...new Set(parts.map((part) => part[0]))].filter((path) => path !== null);
    const drawn = figure.querySelector("g");
    fill(drawn, parts.map((part, at) => [at, part]), ([at]) => at, () => svg("rect", {}),
      (drawn, [, [path, from, to, opacity]]) => {
        const whole = path === null || opacity === 1;
        mark(drawn, "x", from / size * 1000);
        mark(drawn, "width", Math.max((to - from) / size * 1000, 0.5));
        mark(drawn, "y", whole ? 0 : paths.indexOf(path) * 10 / paths.length);
        mark(drawn, "height", whole ? 10 : 10 / paths.length);
        mark(drawn, "fill", path === null ? "#888" : colour(path));
        mark(drawn, "opacity", opacity);
      });
  });
  const legend = [...new Set((session.paths || []).map((path) => path.path))];
  const entry = (path) => {
    const one = element("span");
    one.append(swatch(path), "path " + path + "  ");
    return one;
  };
  fill(find("legend"), legend, (path) => path, entry, () => {});
}

async function look() {
  try {
    const list = (await ask("api/v1/sessions")).sessions;
    if (!list.some((session) => session.name === chosen) && list.length) {
      const speed = (session) => session.bytes_per_second || 0;
      const busiest = list.reduce((a, b) => (speed(b) > speed(a) ? b : a));
      chosen = busiest.name;
      charts.clear();
    }
    showSessions(list);
    find("one").hidden = !list.some((session) => session.name === chosen);
    if (!find("one").hidden) {
      const session = await ask("api/v1/sessions/" + chosen);
      put(find("one-head"), "Session " + session.name + " (" + session.role + ")");
      const limit = session.limited_by ? "Limited by " + session.limited_by.text
        : "A path of another server's session";
      put(find("limit"), limit);
      showPaths(session);
      charts.add(session.paths || []);
      showStreams(session);
    }
    const alerts = (await ask("api/v1/alerts")).raised;
    find("alerts").hidden = alerts.length === 0;
    const made = () => element("p", "", { class: "bad" });
    fill(find("alerts"), alerts, (alert) => alert.alert, made, (shown, alert) =>
      put(shown, alert.alert + ": " + alert.text));
    find("login").hidden = true;
    if (find("state").textContent === "connecting" || find("state").dataset.lost) say("live");
    delete find("state").dataset.lost;
    listen();
  } catch (error) {
    find("state").dataset.lost = "yes";
    say(error.message, true);
  }
}

// Not an EventSource, which sends no token.
async function listen() {
  if (listening) return;
  listening = true;
  try {
    const headers = token ? { Authorization: "Bearer " + token } : {};
    const answer = await fetch(new URL("api/v1/events", base), { headers });
    if (!answer.ok) return;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      text += value;
      let end;
      while ((end = text.indexOf("\n\n")) >= 0) {
        const data = text.slice(0, end).split("\n").find((line) => line.startsWith("data: "));
        text = text.slice(end + 2);
        if (data) showEvent(JSON.parse(data.slice(6)));
      }
    }
  } catch (error) {
    // The next look says that the server is gone.
  } finally {
    setTimeout(() => { listening = false; }, 5000);
  }
}

function showEvent(event) {
  const { time, event: kind, session, ...rest } = event;
  const at = time ? new Date(time * 1000).toLocaleTimeString() + " " : "";
  const fields = Object.entries(rest).filter(([, value]) => value !== null);
  const text = at + kind + " " + fields.map(([name, value]) => name + "=" + value).join(" ");
  const list = find("events");
  list.prepend(element("li", text));
  while (list.children.length > MAX_EVENTS) list.lastChild.remove();
}

find("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = find("token").value;
  sessionStorage.setItem("token", token);
  look();
});
find("drain").addEventListener("click", () => {
  const means = "it takes no new sessions, and ends after --drain with what is left";
  return command("Drain the server: " + means, "api/v1/drain", {});
});
find("close").addEventListener("click", () =>
  command("Close session " + chosen, "api/v1/sessions/" + chosen + "/close", {}));

async function run() {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((wake) => setTimeout(wake, 1000));
  }
}
run();
