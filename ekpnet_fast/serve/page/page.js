"use strict";
// The page: what is asked for lives in `wanted` and in the address; everything else follows from
// the answers. Texts of data reach the document through textContent alone.

const byId = (id) => document.getElementById(id);
const LIKED = "history";
const SHOWN = 12; // reasons and chips before "Show all"
const PAUSE = 120; // ms after a key before a search is sent

const wanted = { mode: "user", user: null, history: [], k: 10, unseen: true, item: null };
let names = new Map(); // item id -> name, of what was seen so far
let answer = null; // of /recommend
let explained = null; // of /explain
let ripple = null;
let facts = null;

// ---- server ------------------------------------------------------------------------------------

const running = new Map(); // what is asked for -> AbortController; a newer question ends an older

class Refusal extends Error {}

async function ask(what, path, body) {
  running.get(what)?.abort();
  const control = new AbortController();
  running.set(what, control);
  const options = { signal: control.signal };
  if (body !== undefined)
    Object.assign(options, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Is it still running?", { cause: error });
  }
  const found = await response.json().catch(() => ({}));
  if (response.ok) return found;
  const said = found.message ?? `The server answered with status ${response.status}.`;
  throw response.status < 500 ? new Refusal(said) : new Error(said);
}

// ---- the address -------------------------------------------------------------------------------

function readAddress() {
  const told = new URLSearchParams(location.hash.slice(1));
  const list = told.get("items");
  wanted.mode = list !== null ? LIKED : "user";
  wanted.user = told.get("user") || null;
  wanted.history = (list ?? "").split(",").filter(Boolean).map(decodeURIComponent);
  wanted.k = [10, 20, 50].includes(Number(told.get("k"))) ? Number(told.get("k")) : 10;
  wanted.unseen = told.get("seen") !== "show";
  wanted.item = told.get("item") || null;
}

function writeAddress({ push = false } = {}) {
  const parts = [];
  if (wanted.mode === LIKED) parts.push(`items=${wanted.history.map((id) => encodeURIComponent(encodeURIComponent(id))).join(",")}`);
  else if (wanted.user !== null) parts.push(`user=${encodeURIComponent(wanted.user)}`);
  if (wanted.k !== 10) parts.push(`k=${wanted.k}`);
  if (!wanted.unseen) parts.push("seen=show");
  if (wanted.item !== null) parts.push(`item=${encodeURIComponent(wanted.item)}`);
  const target = `#${parts.join("&")}`;
  if (target === (location.hash || "#")) return;
  history[push ? "pushState" : "replaceState"](null, "", target);
}

// ---- small helpers -----------------------------------------------------------------------------

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const same = (a, b) => a !== null && b !== null && String(a) === String(b);
const nameOf = (node) => node.name ?? (node.kind === "entity" ? `entity ${node.id}` : `item ${node.id}`);
const asNode = ({ item, name }) => ({ id: item, name, kind: "item" });
const plural = (n, one) => `${n.toLocaleString("en")} ${one}${n === 1 ? "" : "s"}`;
const percent = (x) => (x >= 0.0995 ? `${Math.round(100 * x)} %` : `${(100 * x).toFixed(1)} %`);

/** `film.film.directed_by` as `directed by`; `attribute.1` and what has blanks stay, as in the texts of parts. */
function relationWords(relation) {
  const last = relation.split(/[./#]/).at(-1).replaceAll("_", " ").trim();
  const named = /\p{L}/u.test(last) && !/^\p{Nd}/u.test(last);
  return named && !/\s/u.test(relation) ? last : relation;
}

function tell(error, retry) {
  if (error.name === "AbortError") return;
  byId("banner").hidden = false;
  byId("banner-text").textContent = error.message;
  byId("retry").hidden = error instanceof Refusal;
  byId("retry").onclick = retry;
}

const untell = () => (byId("banner").hidden = true);

// ---- for whom ----------------------------------------------------------------------------------

const likes = (id) => wanted.history.some((other) => same(other, id));

function toggle(id, name) {
  if (name) names.set(String(id), name);
  wanted.history = likes(id) ? wanted.history.filter((other) => !same(other, id)) : [...wanted.history, id];
  refresh();
}

function choose(user) {
  wanted.user = user;
  wanted.item = null;
  refresh({ push: true });
}

function addToHistory(item) {
  names.set(String(item.id), nameOf(item));
  const base = wanted.mode === LIKED ? wanted.history : answer.clicked.map((node) => node.id);
  wanted.mode = LIKED;
  wanted.history = [...base.filter((id) => !same(id, item.id)), item.id];
  showMode();
  search();
  refresh({ push: true });
}

function showMode() {
  const liked = wanted.mode === LIKED;
  document.querySelector(`input[name=mode][value=${wanted.mode}]`).checked = true;
  byId("query-label").textContent = liked ? "Add what was clicked" : "Find a user";
  byId("query").placeholder = liked ? "A title or an id" : "A name or an id";
  byId("random").hidden = liked;
}

let allChips = false;

function showChosen() {
  const liked = wanted.mode === LIKED;
  const items = liked
    ? wanted.history.map((id) => ({ id, name: names.get(String(id)) ?? null, kind: "item" }))
    : answer?.clicked ?? [];
  byId("chosen").hidden = items.length === 0;
  byId("chosen-title").textContent = liked
    ? `The history: ${plural(items.length, "item")}`
    : `Clicked: ${plural(items.length, "item")}`;
  byId("clear").hidden = !liked;
  byId("edit").hidden = liked || !facts?.histories;
  const shown = liked || allChips ? items : items.slice(0, SHOWN);
  byId("chips").replaceChildren(
    ...shown.map((item) => {
      const chip = element("li", {}, element("span", { textContent: nameOf(item), title: nameOf(item) }));
      if (liked)
        chip.append(element("button", {
          type: "button", textContent: "×", ariaLabel: `Remove ${nameOf(item)}`,
          onclick: () => { toggle(item.id); (byId("chips").querySelector("button") ?? byId("query")).focus(); },
        }));
      return chip;
    }),
  );
  byId("more-chips").hidden = shown.length === items.length;
  byId("more-chips").textContent = `Show all ${items.length}`;
}

async function search() {
  const liked = wanted.mode === LIKED;
  const query = byId("query").value.trim();
  try {
    const kind = liked ? "items" : "users";
    const found = await ask("search", `${kind}?limit=40&query=${encodeURIComponent(query)}`);
    showFound(found.matches, found.total, query, liked);
  } catch (error) {
    tell(error, search);
  }
}

function showFound(matches, total, query, liked) {
  const what = liked ? "item" : "user";
  byId("found-note").textContent = !total
    ? `No ${what} called “${query}”.`
    : query
      ? `${plural(total, what)} found${total > matches.length ? `, the first ${matches.length} shown` : ""}`
      : `${liked ? "Items" : "Users"} by their clicks`;
  byId("found").replaceChildren(
    ...matches.map((match) => {
      const name = match.name ?? `${what} ${match.id}`;
      const button = element("button", { type: "button" },
        element("span", { textContent: name }),
        element("span", { className: "count", textContent: match.clicks.toLocaleString("en"), title: plural(match.clicks, "click") }));
      button.ariaPressed = String(liked ? likes(match.id) : same(match.id, wanted.user));
      button.dataset.id = match.id;
      button.onclick = () => (liked ? toggle(match.id, name) : choose(match.id));
      return element("li", {}, button);
    }),
  );
}

function markFound() {
  for (const button of byId("found").querySelectorAll("button")) {
    const id = button.dataset.id;
    button.ariaPressed = String(wanted.mode === LIKED ? likes(id) : same(id, wanted.user));
  }
}

async function anyUser() {
  try {
    const { total } = await ask("any", "users?limit=1");
    const { matches } = await ask("any", `users?limit=1&skip=${Math.floor(Math.random() * total)}`);
    choose(matches[0].id);
  } catch (error) {
    tell(error, anyUser);
  }
}

// ---- recommended -------------------------------------------------------------------------------

const subject = () => (wanted.mode === LIKED ? { history: wanted.history } : { user: wanted.user });
const nobody = () => (wanted.mode === LIKED ? wanted.history.length === 0 : wanted.user === null);

async function refresh({ push = false } = {}) {
  writeAddress({ push });
  markFound();
  if (wanted.mode === LIKED) showChosen();
  const panel = document.querySelector(".list");
  if (nobody()) {
    running.get("recommend")?.abort();
    answer = null;
    showChosen();
    showRows();
    return explain();
  }
  panel.classList.add("loading");
  const started = performance.now();
  try {
    answer = await ask("recommend", "recommend", { ...subject(), k: wanted.k, exclude_seen: wanted.unseen });
    untell();
    byId("took").textContent = `in ${Math.max(1, Math.round(performance.now() - started))} ms`;
  } catch (error) {
    if (error.name === "AbortError") return;
    answer = null;
    tell(error, () => refresh());
  }
  panel.classList.remove("loading");
  for (const item of answer?.clicked ?? []) names.set(String(item.id), nameOf(item));
  showChosen();
  showRows();
  explain();
}

function showRows() {
  const list = byId("rows");
  const before = new Map([...list.children].map((row) => [row.dataset.id, row]));
  const tops = new Map([...before].map(([id, row]) => [id, row.getBoundingClientRect().top]));
  const items = answer?.items ?? [];
  const highest = Math.max(...items.map((item) => item.score), 1e-9);
  list.replaceChildren(
    ...items.map((item, place) => {
      const row = before.get(String(item.item)) ?? newRow(asNode(item));
      row.classList.toggle("new", !before.has(String(item.item)));
      row.classList.toggle("current", same(item.item, wanted.item));
      row.querySelector(".open").ariaCurrent = String(same(item.item, wanted.item));
      row.querySelector(".rank").textContent = place + 1;
      row.querySelector(".score").textContent = item.score.toFixed(3);
      row.querySelector(".bar i").style.transform = `scaleX(${(item.score / highest).toFixed(3)})`;
      return row;
    }),
  );
  if (matchMedia("(prefers-reduced-motion: no-preference)").matches)
    for (const row of list.children) {
      const moved = (tops.get(row.dataset.id) ?? NaN) - row.getBoundingClientRect().top;
      if (moved) row.animate([{ transform: `translateY(${moved}px)` }, { transform: "none" }], { duration: 260, easing: "ease-out" });
    }
  showEmpty(items.length);
  if (!answer) byId("took").textContent = "";
  byId("announce").textContent = answer ? `${plural(items.length, "recommendation")}, first ${items.length ? nameOf(asNode(items[0])) : "none"}` : "";
}

function showEmpty(count) {
  byId("empty").hidden = count > 0 || (!nobody() && !answer);
  byId("sample").hidden = !nobody();
  const liked = wanted.mode === LIKED;
  byId("empty-text").textContent = !nobody()
    ? "Nothing is left to recommend."
    : liked
      ? "Click a few items on the list, and see at once what follows from them."
      : "Choose a user on the list, or look at somebody by chance.";
  byId("sample").textContent = liked ? "Start with the two most clicked" : "Show me any user";
}

function sample() {
  if (wanted.mode !== LIKED) return anyUser();
  ask("sample", "items?limit=2")
    .then(({ matches }) => {
      for (const { id, name } of matches) names.set(String(id), name ?? `item ${id}`);
      wanted.history = matches.map(({ id }) => id);
      refresh({ push: true });
    })
    .catch((error) => tell(error, sample));
}

function newRow(item) {
  const open = element("button", { type: "button", className: "open" },
    element("span", { className: "rank" }),
    element("span", { className: "name", textContent: nameOf(item) }),
    element("span", { className: "score", title: "predicted probability of a click" }),
    element("span", { className: "bar" }, element("i")));
  open.onclick = () => {
    wanted.item = item.id;
    writeAddress({ push: true });
    explain({ show: true });
  };
  const row = element("li", {}, open);
  if (facts?.histories)
    row.append(element("button", {
      type: "button", className: "add", textContent: "+", title: "Add to the history",
      ariaLabel: `Add ${nameOf(item)} to the history`, onclick: () => addToHistory(item),
    }));
  row.dataset.id = item.id;
  return row;
}

// ---- why ---------------------------------------------------------------------------------------

async function explain({ show = false } = {}) {
  for (const row of byId("rows").children) {
    row.classList.toggle("current", same(row.dataset.id, wanted.item));
    row.querySelector(".open").ariaCurrent = String(same(row.dataset.id, wanted.item));
  }
  if (wanted.item === null || nobody() || !answer) {
    running.get("explain")?.abort();
    explained = null;
    return showWhy();
  }
  try {
    explained = await ask("explain", "explain", { ...subject(), item: wanted.item });
  } catch (error) {
    if (error.name === "AbortError") return;
    explained = null;
    tell(error, () => explain());
  }
  allReasons = allParts = false;
  showWhy();
  if (show) {
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    byId("why").scrollIntoView({ behavior: still ? "auto" : "smooth", block: "nearest" });
    byId("why-title").focus({ preventScroll: true });
  }
}

let allReasons = false;
let allParts = false;

function showWhy() {
  const found = explained;
  byId("close").hidden = wanted.item === null;
  byId("picture").hidden = !found?.paths;
  byId("sum").hidden = !found?.parts.length;
  byId("blank").hidden = found !== null;
  if (!found) {
    byId("why-title").textContent = "Why?";
    byId("why-text").textContent = "";
    byId("blank-text").textContent = answer?.items.length
      ? "Click a recommendation to see how what was clicked ripples through the graph, and what of it speaks for the item."
      : "Clicks ripple through the graph of knowledge. What of it speaks for a recommendation is drawn here.";
    return;
  }
  byId("why-title").textContent = `Why ${nameOf(found.item)}?`;
  const rank = answer.items.findIndex((item) => same(item.item, found.item.id));
  const place = rank >= 0 ? `Rank ${rank + 1}, p` : "P";
  byId("why-text").textContent =
    [`${place}redicted probability of a click ${found.score.toFixed(3)}.`, ...found.notes.map((note) => `${note}.`)].join(" ");
  if (found.parts.length) showParts();
  if (found.paths) showPicture();
}

const signed = (x) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(Math.abs(x) < 0.0995 ? 3 : 2)}`;

/** The parts that the logit is the sum of, largest first. */
function showParts() {
  const { parts, all_parts: all, base, logit } = explained;
  const shown = allParts ? parts : parts.slice(0, SHOWN);
  const covered = shown.reduce((sum, part) => sum + part.effect, 0);
  const share = logit > base ? ` (${percent(covered / (logit - base))})` : "";
  const left = all - shown.length;
  const rest = left ? `, ${signed(logit - base - covered)} from ${left.toLocaleString("en")} more` : "";
  byId("parts-note").textContent = `Logit ${signed(logit)}: any item has ${signed(base)}; ${signed(covered)}${share} from what is listed${rest}.`;
  const most = Math.max(...parts.map((part) => Math.abs(part.effect)), 1e-9);
  byId("parts").replaceChildren(
    ...shown.map((part) => {
      const bar = element("i");
      bar.style.transform = `scaleX(${(Math.abs(part.effect) / most).toFixed(3)})`;
      const signals = Object.entries(part.signals).map(([name, effect]) => `${name} ${signed(effect)}`);
      return element("li", { className: part.effect < 0 ? "against" : "", title: signals.join("\n") },
        element("span", { className: "share", textContent: signed(part.effect) }),
        element("span", { className: "words", textContent: part.text }),
        element("span", { className: "bar" }, bar));
    }),
  );
  byId("more-parts").hidden = shown.length === parts.length;
  byId("more-parts").textContent = `Show the ${parts.length} largest`;
}

/** A triple as it is walked, in words. */
function words(triple) {
  const [head, tail] = [nameOf(triple.start), nameOf(triple.end)];
  const by = relationWords(triple.relation);
  return triple.backwards ? `${head} is ${by} of ${tail}` : `${head}, ${by}: ${tail}`;
}

const weightWords = (triple) =>
  triple.attention === null ? "" : `, ${percent(triple.attention)} of the attention of hop ${triple.hop}`;

function showPicture() {
  const named = (node) => ({ ...node, key: `${node.kind}:${node.id}`, name: nameOf(node) });
  const hops = explained.hops.map(({ hop, triples }) => ({
    hop,
    triples: triples.map((t) => ({
      ...t, hop, weight: t.attention ?? Math.max(t.effect ?? 0, 0), start: named(t.start), end: named(t.end),
    })),
  }));
  ripple = Ripple.draw(byId("ripple"), { item: named(explained.item), hops }, (t) => words(t) + weightWords(t), looked);
  const count = hops.reduce((sum, hop) => sum + hop.triples.length, 0);
  byId("ripple").ariaLabel = `Ripple picture of ${nameOf(explained.item)}: ${plural(count, "triple")} in ${plural(hops.length, "hop")}. Arrow keys walk through them, strongest first.`;
  showLegend(hops);
  showReasons();
  looked(null);
}

function showLegend(hops) {
  const entry = (className, text) => element("li", {}, element("i", { className }), text);
  byId("legend").replaceChildren(
    entry("hop-item", "recommended"), entry("hop-0", "history"),
    ...hops.map(({ hop }) => entry(`hop-${hop}`, `hop ${hop}`)),
    entry("hop-0 thing", "hollow: no item, but an entity"),
  );
}

function showReasons() {
  const reasons = explained.reasons;
  byId("reasons-title").textContent = reasons.length ? "What speaks for it most" : "Nothing in the graph speaks for it";
  byId("reasons-note").textContent = reasons.length ? "and how far the item’s logit would fall without it" : "";
  byId("reasons").replaceChildren(
    ...(allReasons ? reasons : reasons.slice(0, SHOWN)).map((reason) => {
      const edge = edgeOf(reason);
      const path = element("span", { className: "words" }, nameOf(reason.steps[0].start));
      for (const step of reason.steps) path.append(...arrow(step));
      if (reason.link) path.append(...arrow(reason.link));
      else if (reason.match === "alike") path.append(element("em", { textContent: " – alike" }));
      const button = element("button", { type: "button", className: edge ? `hop-${edge.hop}` : "" },
        element("span", { className: "share", textContent: `+${reason.effect.toFixed(reason.effect < 0.0995 ? 3 : 2)}`, title: "what the item's logit would lose without this path" }),
        path);
      const at = edge?.place ?? null;
      button.onpointerenter = button.onfocus = button.onclick = () => ripple.look(at);
      button.onpointerleave = button.onblur = () => ripple.look(null);
      const row = element("li", {}, button);
      row.dataset.place = at;
      return row;
    }),
  );
  byId("more-reasons").hidden = allReasons || reasons.length <= SHOWN;
  byId("more-reasons").textContent = `Show all ${reasons.length}`;
}

function arrow(step) {
  const by = relationWords(step.relation);
  return [element("em", { textContent: step.backwards ? ` ← ${by} – ` : ` – ${by} → `, title: step.relation }), nameOf(step.end)];
}

/** The edge of a reason's last triple; several hops may hold it, the path's length says which. */
function edgeOf({ steps }) {
  const last = steps.at(-1);
  const alike = ripple.edges.filter(({ triple }) =>
    triple.relation === last.relation && triple.backwards === last.backwards &&
    same(triple.start.id, last.start.id) && same(triple.end.id, last.end.id));
  return alike.find((edge) => edge.hop === steps.length) ?? alike[0];
}

/** Say in words which triple is looked at. */
function looked(place) {
  for (const row of byId("reasons").children) row.classList.toggle("at", place !== null && row.dataset.place === String(place));
  const caption = byId("caption");
  if (place === null) {
    caption.textContent = "The wider an edge, the more attention the item pays to that triple. Point at one, or walk through them with the arrow keys.";
    return;
  }
  const { triple } = ripple.edges[place];
  const effect = triple.effect === null ? "" : `; without it the logit would ${triple.effect >= 0 ? "fall" : "rise"} by ${Math.abs(triple.effect).toFixed(3)}`;
  caption.replaceChildren(element("b", { textContent: words(triple) }), `${weightWords(triple)}${effect}.`);
}

// ---- start -------------------------------------------------------------------------------------

function listen() {
  let waiting = 0;
  byId("query").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, PAUSE);
  });
  byId("query").addEventListener("keydown", (event) => {
    const first = byId("found").querySelector("button");
    if (event.key === "Enter" && first) first.click();
    if (event.key === "ArrowDown" && first) { event.preventDefault(); first.focus(); }
  });
  byId("found").addEventListener("keydown", (event) => {
    const buttons = [...byId("found").querySelectorAll("button")];
    const to = buttons.indexOf(document.activeElement) + { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (Number.isNaN(to)) return;
    event.preventDefault();
    (buttons[to] ?? (to < 0 ? byId("query") : buttons.at(-1))).focus();
  });
  for (const radio of document.querySelectorAll("input[name=mode]"))
    radio.addEventListener("change", () => {
      wanted.mode = radio.value;
      wanted.item = null;
      byId("query").value = "";
      showMode();
      search();
      refresh({ push: true });
    });
  byId("random").onclick = anyUser;
  byId("sample").onclick = sample;
  byId("clear").onclick = () => { wanted.history = []; wanted.item = null; refresh({ push: true }); byId("query").focus(); };
  byId("edit").onclick = () => {
    wanted.history = answer.clicked.map((node) => node.id);
    wanted.mode = LIKED;
    showMode();
    search();
    refresh({ push: true });
  };
  byId("more-chips").onclick = () => { allChips = true; showChosen(); };
  byId("more-parts").onclick = () => { allParts = true; showParts(); };
  byId("more-reasons").onclick = () => { allReasons = true; showReasons(); };
  byId("k").onchange = () => { wanted.k = Number(byId("k").value); refresh(); };
  byId("unseen").onchange = () => { wanted.unseen = byId("unseen").checked; refresh(); };
  byId("close").onclick = () => {
    const row = byId("rows").querySelector(".current .open");
    wanted.item = null;
    writeAddress({ push: true });
    explain();
    (row ?? byId("recommended")).focus();
  };
  document.querySelector("[data-skip]").onclick = (event) => {
    event.preventDefault(); // the fragment belongs to the state
    byId("recommended").focus();
  };
  addEventListener("popstate", open); // back, forward, and an address typed by hand
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width && explained?.paths) showPicture();
    width = innerWidth;
  });
}

function open() {
  const mode = wanted.mode;
  readAddress();
  byId("k").value = wanted.k;
  byId("unseen").checked = wanted.unseen;
  showMode();
  if (mode !== wanted.mode || !byId("found").children.length) search();
  refresh();
}

async function start() {
  listen();
  try {
    facts = await ask("health", "health");
    byId("facts").textContent = [
      `${facts.model} on ${facts.dataset}`, plural(facts.users, "user"), plural(facts.items, "item"), plural(facts.triples, "triple"),
    ].join(" · ");
    document.title = `${facts.dataset} · ekpnet_fast`;
    document.querySelector("input[value=history]").disabled = !facts.histories;
  } catch (error) {
    return tell(error, () => location.reload());
  }
  open();
}

start();
