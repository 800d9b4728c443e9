"use strict";
/* Without this script the page holds the same figures. It filters and sorts tables, shows why a cell is empty, holds
   candidates against the reader's limits, and draws the plots. It loads nothing. */
(() => {
  const data = JSON.parse(document.getElementById("page-data").textContent);
  const form = document.getElementById("limits");
  const bar = document.getElementById("filters");
  const every = (selector, within = document) => [...within.querySelectorAll(selector)];
  const chosen = name => (bar && bar.elements[name] ? bar.elements[name].value : "");

  /* Tables: which model and method each row is of, sorting by any column, headings that stay in view. */
  const UNITS = {KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40, PiB: 2 ** 50, min: 60, h: 3600,
    kMACs: 1e3, MMACs: 1e6, GMACs: 1e9, TMACs: 1e12, PMACs: 1e15};
  const text = cell => (cell.firstChild ? cell.firstChild.textContent.trim() || cell.textContent.trim() : "");
  const number = shown => {
    const found = /^(?:\u2248 )?(-?[\d ]*\d(?:\.\d+)?(?:e[+-]?\d+)?)\s*(\S*)/.exec(shown);
    return found ? Number(found[1].replaceAll(" ", "")) * (UNITS[found[2]] || 1) : null;
  };
  const tables = every("table").map(table => {
    const titles = every("thead th", table).map(head => head.textContent.trim());
    const at = name => titles.indexOf(name);
    const method = row => at("Variant") >= 0 ? text(row.cells[at("Variant")]).split(" ")[0]
      : at("Method") >= 0 ? text(row.cells[at("Method")]) : null;
    const rows = every("tbody tr", table).map(row => ({row, method: method(row),
      model: at("Model") >= 0 ? text(row.cells[at("Model")]) : null}));
    return {table, rows};
  });
  function sortBy(table, column, head) {
    const descending = head.getAttribute("aria-sort") === "ascending";
    every("th[aria-sort]", table).forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sign = descending ? -1 : 1;
    const keyed = every("tbody tr", table).map(row => {
      const shown = text(row.cells[column]);
      return {row, shown, value: head.classList.contains("n") ? number(shown) : null};
    });
    keyed.sort((a, b) => {
      if (!head.classList.contains("n")) return sign * a.shown.localeCompare(b.shown, "en", {numeric: true});
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
      return sign * (a.value - b.value);
    });
    table.tBodies[0].append(...keyed.map(one => one.row));
  }
  for (const {table, rows} of tables) {
    if (rows.length < 2) continue;
    every("thead th", table).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      button.addEventListener("click", () => sortBy(table, column, head));
      head.append(button);
    });
  }
  function pin() {
    for (const {table} of tables) {
      const frame = table.parentElement;
      let left = 0;
      const heads = every("thead th", table).filter(head => head.classList.contains("heading"));
      heads.forEach((head, column) => {
        const width = head.offsetWidth;
        const fits = column === 0 || left + width <= 0.45 * frame.clientWidth;
        table.style.setProperty(`--left-${column}`, fits && left !== null ? `${left}px` : "auto");
        left = fits && left !== null ? left + width : null;
      });
    }
  }

  /* Why a cell is empty: the note's text beside it, on hover and on focus. */
  const tip = document.getElementById("tip");
  for (const link of every("a.why")) {
    link.setAttribute("aria-label", link.textContent === "\u2013" ? "missing" : `note ${link.textContent}`);
    link.setAttribute("aria-describedby", link.hash.slice(1));
  }
  function explain(event) {
    const link = event.target.closest && event.target.closest("a.why");
    const note = link && document.getElementById(link.hash.slice(1));
    if (!note) { tip.hidden = true; return; }
    tip.textContent = note.textContent.trim();
    tip.hidden = false;
    const place = link.getBoundingClientRect(), own = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(place.left, document.documentElement.clientWidth - own.width - 4))}px`;
    tip.style.top = `${place.bottom + own.height + 8 > innerHeight ? place.top - own.height - 6 : place.bottom + 6}px`;
  }
  document.addEventListener("mouseover", explain);
  document.addEventListener("focusin", explain);
  document.addEventListener("scroll", () => { tip.hidden = true; }, {capture: true, passive: true});
  document.addEventListener("keydown", event => { if (event.key === "Escape") tip.hidden = true; });

  /* Limits: a candidate keeps them, may keep them (its interval crosses one, or a figure is missing), or does not. */
  const KEEPS = "keeps them", MAY = "may keep them", BREAKS = "does not";
  const table = document.getElementById("candidates");
  const candidates = table ? every("tbody tr", table).map((row, place) => ({row, ...data.candidates[place]})) : [];
  const measures = Object.fromEntries(data.measures.map(one => [one.key, one]));
  if (table) {
    const head = document.createElement("th");
    head.scope = "col";
    head.textContent = "Limits";
    table.tHead.rows[0].append(head);
    for (const one of candidates) one.cell = one.row.insertCell();
    candidates.head = head;
  }
  function limits() {
    return form ? data.measures.filter(one => one.limit).map(one => ({...one, at: form.elements[`limit-${one.key}`].value}))
      .filter(one => one.at !== "").map(one => ({...one, at: Number(one.at)})) : [];
  }
  function judge(one, asked) {
    const broken = [], open = [];
    for (const limit of asked) {
      const amount = one.amounts[limit.key];
      if (!amount) { if (!(one.method === "dense" && limit.key === "time")) open.push(`${limit.title} not measured`); continue; }
      const [value, low, high] = amount;
      const ends = low === undefined ? [value, value] : [low, high];
      const [best, worst] = limit.limit === "max" ? ends : [ends[1], ends[0]];
      const within = end => (limit.limit === "max" ? end <= limit.at : end >= limit.at);
      if (!within(best)) broken.push(limit.title);
      else if (!within(worst)) open.push(`${limit.title} not certain`);
    }
    return broken.length ? [BREAKS, broken] : open.length ? [MAY, open] : [KEEPS, []];
  }
  const isChosen = one => (!chosen("model") || one.model === chosen("model")) && (!chosen("method") || one.method === chosen("method"));
  function hold() {
    const asked = limits(), showAll = form && form.elements.all.checked, counts = {[KEEPS]: 0, [MAY]: 0, [BREAKS]: 0};
    for (const one of candidates) {
      const [standing, why] = judge(one, asked);
      one.kept = standing !== BREAKS;
      one.cell.textContent = [standing, why.join(", ")].filter(Boolean).join(": ");
      one.cell.hidden = candidates.head.hidden = !asked.length;
      one.row.hidden = !isChosen(one) || (!one.kept && !showAll);
      if (isChosen(one)) counts[standing] += 1;
    }
    const all = counts[KEEPS] + counts[MAY] + counts[BREAKS];
    const said = document.getElementById("kept");
    if (said) said.textContent = asked.length
      ? `Of ${all} rows ${counts[KEEPS]} keep the limits, ${counts[MAY]} may, ${counts[BREAKS]} do not${showAll ? "" : " and are hidden"}.`
      : `${all} rows; no limit is set.`;
  }

  /* Plots. */
  const drawn = new Map();
  const wait = fn => { let timer; return () => { clearTimeout(timer); timer = setTimeout(fn, 120); }; };
  /* Names stand near their points, on a line to them, where they hide neither a point nor each other; the caption has those
     without room. Vega-Lite has no word for that, Vega has. */
  const SIDES = ["top-right", "right", "bottom-right", "top", "bottom", "top-left", "left", "bottom-left"];
  const FAR = [3, 14, 28, 44, 62];
  const NARROW = 420;
  function fit(vega, width) {
    if (width < NARROW) for (const legend of vega.legends || []) legend.columns = 2;
    const [points, anchors, names] = vega.marks.slice(-3);
    if (!names || names.type !== "text") return vega;
    const {text, x, y, align, baseline, ...looks} = names.encode.update;
    names.from = {data: anchors.name};
    names.encode.update = {...looks, text: {field: "datum.label"}};
    names.transform = [{type: "label", size: {signal: "[width, height]"}, avoidMarks: [points.name],
      anchor: FAR.flatMap(() => SIDES), offset: FAR.flatMap(far => SIDES.map(() => far))}];
    vega.marks.push({type: "rule", from: {data: names.name}, interactive: false, encode: {update: {
      x: {field: "datum.x"}, y: {field: "datum.y"}, x2: {field: "x"}, y2: {field: "y"},
      stroke: {value: "currentColor"}, opacity: {signal: "0.5 * datum.opacity"}}}});
    return vega;
  }
  async function draw(place, spec, rows, x, y) {
    const shown = {...JSON.parse(JSON.stringify(spec).replaceAll("@x@", x).replaceAll("@y@", y)), datasets: {rows}};
    for (const axis of spec === data.plots.scatter ? ["x", "y"] : []) {
      const spread = rows.map(one => one[axis]).filter(value => value > 0);
      if (spread.length === rows.length && Math.max(...spread) > 20 * Math.min(...spread))
        for (const layer of shown.layer) layer.encoding[axis].scale = {...layer.encoding[axis].scale, type: "log"};
    }
    const before = drawn.get(place);
    drawn.set(place, null);
    if (before) before.finalize();
    if (!rows.length) { place.textContent = "Nothing was measured of this."; return; }
    const made = await vegaEmbed(place, shown, {mode: "vega-lite", patch: vega => fit(vega, place.clientWidth), ast: true, renderer: "svg", actions: false,
      tooltip: {theme: "page", disableDefaultStyle: true}});
    place.querySelector("svg").setAttribute("aria-hidden", "true");
    drawn.set(place, made);
  }
  const told = (one, titles) => [`${one.label}${one.model ? `, ${one.model}` : ""}`,
    ...[...one.row.cells].map((cell, column) => [titles[column], cell.textContent.replace(/\s+/g, " ").trim()])
      .slice(1).filter(([title, shown]) => shown && title !== "Limits").map(([title, shown]) => `${title}: ${shown}`)].join("\n");
  function points(x, y) {
    const titles = every("thead th", table).map(head => head.textContent.trim());
    const rows = candidates.filter(one => isChosen(one) && one.amounts[x.key] && one.amounts[y.key]).map(one => {
      const [xs, ys] = [one.amounts[x.key], one.amounts[y.key]];
      return {x: xs[0], x_low: xs[1], x_high: xs[2], y: ys[0], y_low: ys[1], y_high: ys[2], label: one.label,
        model: one.model, method: one.method, kept: one.kept, told: told(one, titles)};
    });
    const better = (a, b, measure) => (measure.higher_is_better ? a >= b : a <= b);
    for (const one of rows) one.front = one.kept && !rows.some(other => other !== one && other.kept && other.model === one.model
      && better(other.x, one.x, x) && better(other.y, one.y, y) && (other.x !== one.x || other.y !== one.y));
    return rows;
  }
  function plot() {
    if (!data.plots) return;
    const y = measures[form && form.elements.y ? form.elements.y.value : ""];
    for (const place of every("[data-scatter]")) {
      const key = place.dataset.scatter === "speed" && form.elements.speed ? form.elements.speed.value : place.dataset.scatter;
      const x = measures[key], mark = one => `${one.title}, ${one.higher_is_better ? "more" : "less"} is better`;
      const rows = points(x, y);
      draw(place, data.plots.scatter, rows, mark(x), mark(y));
      const front = [...new Set(rows.filter(one => one.front).map(one => one.label))];
      place.closest("figure").querySelector(".front").textContent = front.length ? `Pareto front: ${front.join(", ")}.` : "";
    }
    for (const place of every("[data-bars]")) {
      const rows = data.scores.filter(one => one.track === Number(place.dataset.bars) && (!chosen("method") || one.method === chosen("method") || one.method === "dense"));
      draw(place, data.plots.bars, rows, "", "");
    }
  }

  /* The filters of the bar reach every table, and the tracks. */
  for (const one of data.measures) if (one.at !== undefined) form.elements[`limit-${one.key}`].value = one.at;
  function filter() {
    const model = chosen("model"), method = chosen("method"), track = chosen("track");
    for (const {table: other, rows} of tables) {
      if (other === table) continue;
      for (const one of rows) one.row.hidden = Boolean((model && one.model && one.model !== model)
        || (method && one.method && one.method !== method && one.method !== "dense"));
    }
    for (const one of every("[data-model]")) one.hidden = Boolean(model && one.dataset.model !== model);
    for (const section of every("[data-track]")) section.hidden = Boolean(track && section.dataset.track !== track);
    hold();
    plot();
    pin();
  }
  if (bar) bar.addEventListener("change", filter);
  if (form) {
    form.addEventListener("input", wait(() => { hold(); plot(); }));
    form.addEventListener("reset", () => setTimeout(() => { hold(); plot(); }));
    form.addEventListener("submit", event => event.preventDefault());
  }
  every("[data-scripted]").forEach(one => { one.hidden = false; });
  addEventListener("resize", wait(pin));
  document.addEventListener("toggle", wait(pin), true);
  filter();
  document.documentElement.dataset.ready = "";
})();
