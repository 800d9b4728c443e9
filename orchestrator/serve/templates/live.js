"use strict";
// Asks for this very page again and again, and puts what differs into it. What the reader has opened, scrolled to or
// focused stays, since elements are changed and not replaced.
(() => {
  const root = document.documentElement;
  const link = document.getElementById("link");
  let whole = root.dataset.version;
  let behind = Date.now() / 1000 - Number(root.dataset.now);  // seconds by which the server's clock is behind this one

  const duration = seconds => {
    if (seconds < 60) return `${Math.max(0, seconds).toFixed(1)} s`;
    const [minutes, rest] = [Math.floor(seconds / 60), Math.floor(seconds % 60)];
    if (minutes < 60) return `${minutes} min ${String(rest).padStart(2, "0")} s`;
    return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  };

  const tick = () => {
    for (const one of document.querySelectorAll("[data-since]")) {
      const text = duration(Date.now() / 1000 - behind - Number(one.dataset.since));
      if (one.textContent !== text) one.textContent = text;
    }
  };

  const alike = (one, other) =>
    one && one.nodeType === other.nodeType && one.nodeName === other.nodeName && (one.id || "") === (other.id || "");

  // Makes one element what another one is, with as few changes as order and ids allow.
  const become = (one, other) => {
    if (one.isEqualNode(other)) return;
    if (one.nodeType !== Node.ELEMENT_NODE) { one.data = other.data; return; }
    const atEnd = one.hasAttribute("data-end") && one.scrollTop + one.clientHeight >= one.scrollHeight - 8;
    for (const { name } of [...one.attributes]) {
      if (!other.hasAttribute(name) && !(one.nodeName === "DETAILS" && name === "open")) one.removeAttribute(name);
    }
    for (const { name, value } of other.attributes) {
      if (one.getAttribute(name) !== value) one.setAttribute(name, value);
    }
    let next = one.firstChild;
    for (const wanted of [...other.childNodes]) {
      const named = wanted.id && [...one.children].find(child => child.id === wanted.id && alike(child, wanted));
      const found = named || (alike(next, wanted) ? next : null);
      if (!found) { one.insertBefore(document.importNode(wanted, true), next); continue; }
      if (found === next) next = next.nextSibling;
      else one.insertBefore(found, next);
      become(found, wanted);
    }
    while (next) { const gone = next; next = next.nextSibling; gone.remove(); }
    if (atEnd) one.scrollTop = one.scrollHeight;
  };

  const tell = text => { link.hidden = !text; link.textContent = text; };

  const merge = text => {
    const other = new DOMParser().parseFromString(text, "text/html");
    const page = other.documentElement.dataset;
    if (page.page !== root.dataset.page) { location.reload(); return; }
    root.dataset.seconds = page.seconds;
    whole = page.version;
    behind = Date.now() / 1000 - Number(page.now);
    for (const part of other.querySelectorAll("[data-part]:not([data-same])")) {
      const own = document.getElementById(part.id);
      if (own) become(own, part);
    }
    tick();
  };

  const ask = async () => {
    const parts = [...document.querySelectorAll("[data-part]")].map(one => one.dataset.part);
    try {
      const answer = await fetch(location.href, { headers: { "Llmcbench-Known": [whole, ...parts].join(" ") }, cache: "no-store" });
      const isMessage = root.dataset.page === "message";
      if (answer.ok) merge(await answer.text());
      if (answer.ok || answer.status === 304 || isMessage) tell("");
      else tell(`This is not what there is now: the server answers with status ${answer.status}.`);
    } catch {
      tell("This is not live any more: the server does not answer.");
    }
  };

  // What the reader asked to be made at once is asked for once, and not again with each look for news.
  const here = new URL(location.href);
  if (here.searchParams.has("now")) {
    here.searchParams.delete("now");
    history.replaceState(null, "", here);
  }

  const go = async () => {
    if (!document.hidden) await ask();
    setTimeout(go, 1000 * Number(root.dataset.seconds));
  };

  for (const one of document.querySelectorAll("[data-end]")) one.scrollTop = one.scrollHeight;
  document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
  setInterval(tick, 1000);
  setTimeout(go, 1000 * Number(root.dataset.seconds));
})();
