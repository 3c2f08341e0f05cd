// Keeps the page fresh: fetches it again and changes only what is different, so that nothing flickers and
// neither focus, selection nor scrolling is lost.
"use strict";
(() => {
  const EVERY_MS = 3000;
  const banner = document.querySelector(".offline");
  let failedSince = null;

  function sameKind(a, b) {
    return a.nodeType === b.nodeType && a.nodeName === b.nodeName;
  }

  function morph(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    morphChildren(old, fresh);
  }

  function morphChildren(old, fresh) {
    const byKey = new Map();
    for (const child of old.children) if (child.dataset && child.dataset.key) byKey.set(child.dataset.key, child);
    let at = old.firstChild;
    for (const want of [...fresh.childNodes]) {
      const key = want.dataset && want.dataset.key;
      const known = key ? byKey.get(key) : null;
      if (known && known !== at && sameKind(known, want)) old.insertBefore(known, at);
      const have = known && sameKind(known, want) ? known : at;
      const foreign = have && have.dataset && have.dataset.key && have.dataset.key !== key;
      if (have && sameKind(have, want) && !foreign) {
        morph(have, want);
        at = have.nextSibling;
      } else {
        old.insertBefore(document.importNode(want, true), at);
      }
    }
    while (at) {
      const next = at.nextSibling;
      old.removeChild(at);
      at = next;
    }
  }

  function show(problem) {
    if (!problem) {
      failedSince = null;
      banner.hidden = true;
      return;
    }
    failedSince = failedSince || new Date();
    banner.querySelector("span").textContent = failedSince.toISOString().slice(11, 19) + " UTC";
    banner.hidden = false;
  }

  async function refresh() {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, {
        cache: "no-store",
        credentials: "same-origin",
        signal: AbortSignal.timeout(4 * EVERY_MS),
      });
      if (!answer.ok && answer.status !== 404) throw new Error(String(answer.status));
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const main = document.querySelector("main");
      const parts = (root) => [...root.querySelectorAll("[data-part]")].map((part) => part.dataset.part).join();
      if (parts(document) === parts(fresh)) {
        for (const part of document.querySelectorAll("[data-part]")) {
          morph(part, fresh.querySelector(`[data-part="${part.dataset.part}"]`));
        }
      } else {
        morph(main, fresh.querySelector("main")); // a section came or went
      }
      show(false);
    } catch (error) {
      show(true);
    }
  }

  async function run() {
    await refresh();
    setTimeout(run, EVERY_MS);
  }
  document.addEventListener("visibilitychange", refresh);
  setTimeout(run, EVERY_MS);
})();
