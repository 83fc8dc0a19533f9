"use strict";
// The ripple picture: the recommended item in the centre, around it a ring for the history and one
// for each hop; a triple is an edge from its head's ring to its tail's, as wide as its weight.

const Ripple = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const TOP_GAP = 0.32; // radians at 12 o'clock that are left to the rings' names
  const measure = document.createElement("canvas").getContext("2d");

  function element(name, attributes = {}, text = null) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    return made;
  }

  const polar = (radius, angle) => [radius * Math.cos(angle), radius * Math.sin(angle)];

  /** Nodes and edges of an explanation; a node hangs on its strongest incoming triple. */
  function build(explanation) {
    const nodes = new Map();
    const edges = [];
    const node = (ring, entity) => {
      const key = `${ring}:${entity.key}`;
      if (!nodes.has(key))
        nodes.set(key, { ring, entity, weight: 0, parent: null, children: [], edge: null });
      return nodes.get(key);
    };
    // An entity stands on the ring where it first appeared; a later hop may start there again.
    const ringOf = (entity, highest) => {
      for (let ring = highest; ring >= 0; ring--) if (nodes.has(`${ring}:${entity.key}`)) return ring;
      return highest;
    };
    for (const { hop, triples } of explanation.hops)
      for (const triple of triples) {
        const from = node(ringOf(triple.start, hop - 1), triple.start);
        const to = node(hop, triple.end);
        edges.push({ hop, triple, from, to });
        to.weight += triple.weight;
        if (from.ring === 0) from.weight += triple.weight;
      }
    const strongest = [...edges].sort((a, b) => b.triple.weight - a.triple.weight);
    strongest.forEach((edge, place) => {
      edge.place = place;
      if (edge.to.edge === null) {
        edge.to.edge = edge;
        edge.to.parent = edge.from;
        edge.from.children.push(edge.to);
      }
      if (edge.from.edge === null && edge.from.ring === 0) edge.from.edge = edge;
    });
    const twins = new Map(); // triples that share both ends are drawn side by side
    for (const edge of strongest) {
      const key = `${edge.hop}:${edge.triple.start.key}:${edge.triple.end.key}`;
      edge.twin = twins.get(key) ?? 0;
      twins.set(key, edge.twin + 1);
    }
    return { nodes: [...nodes.values()], edges: strongest };
  }

  /** Angles as in a radial tree: leaves share the circle, a parent stands amid its children. */
  function place(nodes, radii) {
    const roots = nodes.filter((n) => n.parent === null).sort((a, b) => b.weight - a.weight);
    const leaves = (n) => n.children.reduce((sum, child) => sum + leaves(child), 0) || 1;
    const apart = roots.length > 1 ? 0.5 : 0; // between the subtrees of two roots, in leaves
    const slots = roots.reduce((sum, root) => sum + leaves(root) + apart, 0);
    const step = (2 * Math.PI - TOP_GAP) / slots;
    let next = 0;
    const walk = (n) => {
      n.children.sort((a, b) => b.weight - a.weight);
      if (n.children.length === 0) n.slot = next++;
      else {
        n.children.forEach(walk);
        n.slot = (n.children[0].slot + n.children.at(-1).slot) / 2;
      }
      n.angle = -Math.PI / 2 + TOP_GAP / 2 + (n.slot + 0.5 + apart / 2) * step;
      [n.x, n.y] = polar(radii[n.ring], n.angle);
    };
    for (const root of roots) {
      walk(root);
      next += apart;
    }
  }

  function curve(edge, radii) {
    const middle = (radii[edge.from.ring] + radii[edge.to.ring]) / 2;
    const bend = edge.twin === 0 ? 0 : (edge.twin % 2 ? 1 : -1) * Math.ceil(edge.twin / 2) * 0.09;
    const a = polar(middle, edge.from.angle + bend);
    const b = polar(middle, edge.to.angle + bend);
    const points = [[edge.from.x, edge.from.y], a, b, [edge.to.x, edge.to.y]];
    const [start, ...rest] = points.map((point) => point.map((x) => x.toFixed(1)).join(" "));
    return `M${start}C${rest.join(",")}`;
  }

  /** The text cut to a width in pixels. */
  function fitted(text, width) {
    if (measure.measureText(text).width <= width) return text;
    let cut = text;
    while (cut.length > 1 && measure.measureText(`${cut}…`).width > width) cut = cut.slice(0, -1);
    return `${cut.trimEnd()}…`;
  }

  /** Words of the item on up to three lines that fit the disk. */
  function lines(text, width) {
    const found = [];
    for (const word of text.split(/\s+/)) {
      const longer = found.length ? `${found.at(-1)} ${word}` : word;
      if (found.length && measure.measureText(longer).width <= width) found[found.length - 1] = longer;
      else found.push(word);
    }
    const kept = found.slice(0, 3);
    if (found.length > 3) kept[2] += "…";
    return kept.map((line) => fitted(line, width));
  }

  /** Labels where they fit, strongest nodes first; the rest appears when it is looked at. */
  function label(nodes, outer, half, height) {
    const taken = nodes.map((n) => ({ l: n.x - 5, r: n.x + 5, t: n.y - 5, b: n.y + 5, of: n }));
    const made = [];
    const order = [...nodes].sort((a, b) => (b.ring === outer) - (a.ring === outer) || b.weight - a.weight);
    for (const n of order) {
      const right = n.x >= 0;
      const gap = n.size + 5;
      const room = 0.92 * (half - Math.abs(n.x) - gap); // bold, when looked at, it is wider
      const spread = n.ring === outer ? room : Math.min(room, 110);
      const text = fitted(n.entity.name, Math.max(spread, 24));
      const width = measure.measureText(text).width;
      const x = right ? n.x + gap : n.x - gap;
      // Outside the last ring a label leans away from the centre, so that neighbours stay apart.
      const y = n.y + (n.ring === outer ? Math.sin(n.angle) * 6 : 0);
      const box = { l: right ? x : x - width, r: right ? x + width : x, t: y - 8, b: y + 8, of: n };
      const clear =
        spread >= 40 && Math.abs(y) < height &&
        taken.every((o) => o.of === n || o.l > box.r || o.r < box.l || o.t > box.b || o.b < box.t);
      if (clear) taken.push(box);
      const drawn = element("text", {
        x, y, dy: "0.35em", "text-anchor": right ? "start" : "end",
        class: `label${clear ? "" : " spare"}`,
      }, text);
      drawn.style.setProperty("--ring", n.ring);
      n.labelX = x;
      made.push([n, drawn]);
    }
    return made;
  }

  /**
   * Draw an explanation.
   * @param {SVGSVGElement} svg to draw in; its width decides the picture's.
   * @param {object} explanation `item`, and `hops` of triples with `weight`, from `start` to `end`;
   *   ends have a `key`, a `name` and a `kind`.
   * @param {(triple: object) => string} words a triple as a sentence.
   * @param {(place: number | null) => void} looked told which triple is looked at, by its rank.
   * @returns {{look: (place: number | null) => void, edges: object[]}}
   */
  function draw(svg, explanation, words, looked) {
    svg.replaceChildren();
    const { nodes, edges } = build(explanation);
    const width = Math.max(svg.clientWidth, 280);
    const narrow = width < 520;
    svg.classList.toggle("narrow", narrow);
    const rings = Math.max(...explanation.hops.map((hop) => hop.hop), 0);
    const margin = narrow ? 58 : 132;
    const outer = Math.min((width - 2 * margin) / 2, 300);
    const disk = narrow ? 28 : 43;
    const inner = disk + (outer - disk) * (narrow ? 0.28 : 0.26);
    const radii = Array.from({ length: rings + 1 }, (_, ring) =>
      rings === 0 ? inner : inner + ((outer - inner) * ring) / rings);
    const height = outer + 26;
    svg.setAttribute("viewBox", `${-width / 2} ${-height} ${width} ${2 * height}`);
    svg.setAttribute("height", 2 * height);

    radii.forEach((radius, ring) => svg.append(element("circle", { class: "ring", r: radius })));
    place(nodes, radii);
    const most = Math.max(...edges.map((edge) => edge.triple.weight), 1e-12);
    const heaviest = Math.max(...nodes.map((n) => n.weight), 1e-12);
    for (const n of nodes) n.size = (narrow ? 3 : 3.5) + (narrow ? 3.5 : 5.5) * Math.sqrt(n.weight / heaviest);

    const look = (edge) => {
      const on = new Set();
      for (let at = edge; at; at = at.from.ring > 0 ? at.from.edge : null) on.add(at);
      const ends = new Set([...on].flatMap((at) => [at.from, at.to]));
      svg.classList.toggle("focused", edge !== null);
      for (const each of edges) {
        each.group.classList.toggle("on", on.has(each));
        each.group.classList.toggle("at", each === edge);
      }
      for (const n of nodes) {
        n.circle.classList.toggle("on", ends.has(n));
        n.label.classList.toggle("on", ends.has(n));
        // Above its node, or below it in the history, it stays clear of the edge's other label.
        const above = ends.has(n) && n.ring > 0 && n.ring < rings;
        const below = ends.has(n) && n.ring === 0;
        n.label.setAttribute("x", above ? n.x : n.labelX);
        n.label.setAttribute("dy", above ? "-1em" : below ? "1.5em" : "0.35em");
        n.label.setAttribute("text-anchor", above ? "middle" : n.x >= 0 ? "start" : "end");
      }
      looked(edge === null ? null : edge.place);
    };

    const lowest = element("g");
    for (const edge of [...edges].reverse()) { // the strongest on top
      const share = edge.triple.weight / most;
      const group = element("g", {
        class: `edge hop-${edge.hop}`, role: "img", tabindex: edge.place === 0 ? 0 : -1,
        "aria-label": words(edge.triple), "data-place": edge.place,
      });
      group.style.setProperty("--ring", edge.hop);
      const d = curve(edge, radii);
      group.append(
        element("path", {
          d, "stroke-width": (0.9 + (narrow ? 4 : 6.2) * share).toFixed(2),
          "stroke-opacity": (0.28 + 0.67 * Math.sqrt(share)).toFixed(2),
        }),
        element("path", { d, class: "hit" }),
      );
      group.addEventListener("pointerenter", () => look(edge));
      group.addEventListener("pointerleave", () => look(null));
      group.addEventListener("click", () => look(edge));
      group.addEventListener("focus", () => look(edge));
      group.addEventListener("blur", () => look(null));
      edge.group = group;
      lowest.append(group);
    }
    svg.append(lowest);
    lowest.addEventListener("keydown", (event) => {
      const from = edges.findIndex((edge) => edge.group === document.activeElement);
      const last = edges.length - 1;
      const to = {
        ArrowDown: Math.min(from + 1, last), ArrowRight: Math.min(from + 1, last),
        ArrowUp: Math.max(from - 1, 0), ArrowLeft: Math.max(from - 1, 0), Home: 0, End: last,
      }[event.key];
      if (from < 0 || to === undefined) return;
      event.preventDefault();
      edges[from].group.setAttribute("tabindex", -1);
      edges[to].group.setAttribute("tabindex", 0);
      edges[to].group.focus();
    });

    for (const n of [...nodes].sort((a, b) => a.weight - b.weight)) {
      const target = n.entity.key === explanation.item.key ? " target" : "";
      n.circle = element("circle", {
        cx: n.x.toFixed(1), cy: n.y.toFixed(1), r: n.size.toFixed(1),
        class: `node hop-${n.ring}${n.entity.kind === "item" ? "" : " thing"}${target}`,
      });
      n.circle.style.setProperty("--ring", n.ring);
      if (n.edge) {
        n.circle.addEventListener("pointerenter", () => look(n.edge));
        n.circle.addEventListener("pointerleave", () => look(null));
        n.circle.addEventListener("click", () => look(n.edge));
      }
      svg.append(n.circle);
    }
    const centre = element("g", { class: "centre" });
    centre.append(element("circle", { class: "halo", r: disk + 5 }), element("circle", { r: disk }));
    const family = getComputedStyle(document.body).fontFamily;
    measure.font = `600 ${narrow ? 9.5 : 12}px ${family}`;
    const title = lines(explanation.item.name, 2 * disk - (narrow ? 7 : 12));
    const leading = narrow ? 11 : 14;
    title.forEach((line, place) =>
      centre.append(element("text", { y: (place - (title.length - 1) / 2) * leading, dy: "0.35em" }, line)));
    svg.append(centre);
    radii.forEach((radius, ring) =>
      svg.append(element("text", { class: "ring-name", y: -radius, dy: "0.35em" },
        ring === 0 ? "history" : narrow ? ring : `hop ${ring}`)));
    measure.font = `12px ${family}`;
    for (const [n, drawn] of label(nodes, rings, width / 2, height)) {
      n.label = drawn;
      svg.append(drawn);
    }
    return { edges, look: (place) => look(place === null ? null : edges[place]) };
  }

  return { draw };
})();
