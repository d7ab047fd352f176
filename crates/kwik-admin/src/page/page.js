// The live page. No library, no request to any other host.
"use strict";

// What it asks for is beside this file, wherever that is.
const base = document.currentScript.src;
const find = (id) => document.getElementById(id);
const COLOURS = [
  "#4c6fff", "#e07a1f", "#2a9d62", "#b13fb8", "#d1495b", "#00899e", "#8a7a00", "#777788",
];
const colour = (path) => COLOURS[path % COLOURS.length];
const SAMPLES = 180; // Three minutes.
const MAX_EVENTS = 50;

let token = sessionStorage.getItem("token") || "";
let chosen = location.hash.slice(1);
let history = new Map(); // Of the chosen session: path -> samples.
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

// Rows are made anew only when they differ, so that the focus stays where it is, and not while a
// button of them is held down, whose click would be lost.
function fill(body, rows, row) {
  const key = JSON.stringify(rows);
  if (body.dataset.key === key || body.matches(":active")) return;
  body.dataset.key = key;
  const focused = document.activeElement && document.activeElement.getAttribute("aria-label");
  body.replaceChildren(...rows.map(row));
  if (focused && !document.activeElement.getAttribute("aria-label")) {
    const again = body.querySelector('[aria-label="' + CSS.escape(focused) + '"]');
    if (again) again.focus();
  }
}

function choose(name) {
  chosen = name;
  history = new Map();
  location.hash = name;
  look();
}

function showSessions(list) {
  find("none").hidden = list.length > 0;
  const rows = list.map((session) => ({ ...session, chosen: session.name === chosen }));
  fill(find("sessions"), rows, (session) => {
    const marks = session.chosen ? { class: "chosen", "aria-current": "true" } : {};
    const row = element("tr", undefined, marks);
    const name = element("td");
    name.append(button(session.name, "Show session " + session.name, () => choose(session.name)));
    const limit = session.limited_by ? session.limited_by.text : "–";
    const cells = [session.role, session.remote || "–", session.paths ?? "–",
      session.streams ?? "–", rate(session.bytes_per_second), limit];
    row.append(name, ...cells.map((cell) => element("td", cell)));
    return row;
  });
}

function showPaths(session) {
  fill(find("paths"), session.paths || [], (path) => {
    const row = element("tr", undefined, { "data-path": path.path });
    const name = element("td");
    const swatch = element("span", "", { class: "swatch" });
    // A style attribute is forbidden here by the page's own policy, and a property is not.
    swatch.style.background = colour(path.path);
    name.append(swatch, String(path.path));
    const bad = path.status === "dead" || path.status === "degraded";
    const share = path.packets_lost / path.packets_sent * 100;
    const lost = path.packets_sent ? share.toFixed(1) + " %" : "–";
    // A primary is told by its client what others bring; of its own it knows what it sends.
    const own = path.path === 0 && session.role === "primary";
    const cells = [path.address || "primary", path.status, rate(path.bytes_per_second),
      millis(path.rtt), millis(path.queue_seconds), lost,
      bytes(own ? session.sent : path.received)].map((cell) => element("td", cell));
    if (bad) cells[1].className = "bad";
    if (path.reason) cells[1].title = path.reason;
    const change = element("td");
    if (session.role === "primary" && path.path !== 0 && !path.ended && path.status !== "dead") {
      const below = "api/v1/sessions/" + session.name + "/paths/" + path.path;
      const order = (word) => {
        const text = word + " path " + path.path;
        return button(word, text, () => command(text, below + "/" + word.toLowerCase(), {}));
      };
      change.append(order("Remove"), " ", order("Kill"));
    }
    row.append(name, ...cells, change);
    return row;
  });
}

const CHARTS = [
  ["Rate", "bytes_per_second", rate],
  ["Round trip", "rtt", millis],
  ["Queue", "queue_seconds", millis],
  ["Outstanding", "outstanding", bytes],
];

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function showCharts(session) {
  for (const path of session.paths || []) {
    const samples = history.get(path.path) || [];
    samples.push(path);
    if (samples.length > SAMPLES) samples.shift();
    history.set(path.path, samples);
  }
  for (const path of history.keys()) {
    if (!(session.paths || []).some((one) => one.path === path)) history.delete(path);
  }
  find("charts").replaceChildren(...CHARTS.map(([title, field, unit]) => {
    const all = [...history.values()].flat().map((sample) => sample[field] || 0);
    const most = Math.max(...all, 1e-9);
    const last = (samples) => samples[samples.length - 1][field];
    const now = [...history].map(([path, samples]) => "path " + path + " " + unit(last(samples)));
    const box = { viewBox: "0 0 " + SAMPLES + " 100", preserveAspectRatio: "none", role: "img" };
    const drawn = svg("svg", box);
    drawn.append(svg("title", {}, title + ": " + now.join(", ")));
    for (const [path, samples] of history) {
      const first = SAMPLES - samples.length;
      const height = (sample) => 97 - 94 * (sample[field] || 0) / most;
      const points = samples.map((sample, at) => (first + at) + "," + height(sample));
      drawn.append(svg("polyline", { points: points.join(" "), fill: "none", stroke: colour(path),
        "stroke-width": 2, "vector-effect": "non-scaling-stroke" }));
    }
    const figure = element("figure");
    figure.append(element("figcaption", title + ", at most " + unit(most)), drawn);
    return figure;
  }));
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
      maps.push([text, size, parts]);
    }
    const leases = (session.leases || []).filter((lease) => lease.stream === stream.stream);
    if (stream.sends && leases.length) {
      const size = Math.max(stream.sends.written, ...leases.map((lease) => lease.to));
      const leased = leases.map((lease) => [lease.path, lease.from, lease.to, 0.6]);
      const parts = [[null, 0, stream.sends.written, 0.1], ...leased];
      maps.push([stream.stream + ": " + leases.length + " leases of " + bytes(size), size, parts]);
    } else if (stream.sends) {
      const { written, credit } = stream.sends;
      const text = stream.stream + ": written " + bytes(written) + ", may write " +
        bytes(credit) + " more";
      maps.push([text, 0, []]);
    }
  }
  find("streams").replaceChildren(...maps.map(([text, size, parts]) => {
    const figure = element("figure");
    figure.append(element("figcaption", text));
    if (size) {
      const box = { viewBox: "0 0 1000 10", preserveAspectRatio: "none", role: "img" };
      const drawn = svg("svg", { class: "map", ...box });
      drawn.append(svg("title", {}, text));
      // Leases overlap: each path has a row of its own.
      const paths = [...new Set(parts.map((part) => part[0]))].filter((path) => path !== null);
      for (const [path, from, to, opacity] of parts) {
        const row = path === null || opacity === 1 ? 0 : paths.indexOf(path) * 10 / paths.length;
        const high = path === null || opacity === 1 ? 10 : 10 / paths.length;
        const fill = path === null ? "#888" : colour(path);
        const [x, width] = [from / size * 1000, Math.max((to - from) / size * 1000, 0.5)];
        drawn.append(svg("rect", { x, width, y: row, height: high, fill, opacity }));
      }
      figure.append(drawn);
    }
    return figure;
  }));
  const legend = [...new Set((session.paths || []).map((path) => path.path))];
  fill(find("legend"), legend, (path) => {
    const swatch = element("span", "", { class: "swatch" });
    swatch.style.background = colour(path);
    const one = element("span");
    one.append(swatch, "path " + path + "  ");
    return one;
  });
}

async function look() {
  try {
    const list = (await ask("api/v1/sessions")).sessions;
    if (!list.some((session) => session.name === chosen) && list.length) {
      const speed = (session) => session.bytes_per_second || 0;
      const busiest = list.reduce((a, b) => (speed(b) > speed(a) ? b : a));
      chosen = busiest.name;
      history = new Map();
    }
    showSessions(list);
    find("one").hidden = !list.some((session) => session.name === chosen);
    if (!find("one").hidden) {
      const session = await ask("api/v1/sessions/" + chosen);
      find("one-head").textContent = "Session " + session.name + " (" + session.role + ")";
      const limit = session.limited_by ? "Limited by " + session.limited_by.text
        : "A path of another server's session";
      if (find("limit").textContent !== limit) find("limit").textContent = limit;
      showPaths(session);
      showCharts(session);
      showStreams(session);
    }
    const alerts = (await ask("api/v1/alerts")).raised;
    find("alerts").hidden = alerts.length === 0;
    fill(find("alerts"), alerts, (alert) =>
      element("p", alert.alert + ": " + alert.text, { class: "bad" }));
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
