"use strict";
(() => {
  const payload = JSON.parse(document.getElementById("payload").textContent);
  const root = document.documentElement;
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const current = {}; // the specification that each panel shows now
  const views = {};

  // Charts --------------------------------------------------------------------------------------------------------------

  async function show(name, spec) {
    current[name] = spec;
    views[name]?.finalize();
    const place = document.querySelector(`[data-chart="${name}"]`);
    const mode = root.dataset.mode;
    views[name] = await vegaEmbed(place, spec, {
      mode: "vega-lite", renderer: "svg", actions: false, config: payload.themes[mode], tooltip: { theme: mode },
    });
    place.dataset.drawn = "yes";
  }

  function setMode(mode) {
    root.dataset.mode = mode;
    for (const [name, spec] of Object.entries(current)) show(name, spec);
  }

  // The front of any two metrics ------------------------------------------------------------------------------------------

  function frontControls(name, template) {
    const data = template.usermeta.front;
    const levels = ["trial", "artifact", "measurement"];
    const by = Object.fromEntries(data.quantities.map((its, index) => [its.name, { ...its, index }]));
    const place = document.querySelector(`[data-for="${name}"]`);

    const choice = (text, options, chosen) => {
      const label = document.createElement("label");
      const select = document.createElement("select");
      for (const [value, title] of options) select.add(new Option(title, value, false, value === chosen));
      label.append(text, select);
      place.append(label);
      return { label, select };
    };
    const metrics = data.quantities.map((its) => [its.name, `${its.label} (${its.goal === "maximize" ? "more" : "less"} is better)`]);
    const y = choice("Vertical metric", metrics, data.y);
    const x = choice("Horizontal metric", metrics, data.x);
    const device = choice("Device", data.settings.map((its, index) => [String(index), its.text]), "0");
    const verdict = place.appendChild(document.createElement("output"));
    verdict.setAttribute("aria-live", "polite");
    place.hidden = false;

    function update() {
      const xs = by[x.select.value], ys = by[y.select.value];
      for (const [mine, other] of [[x, y], [y, x]])
        for (const option of mine.select.options) option.disabled = option.value === other.select.value;
      const level = levels[Math.max(levels.indexOf(xs.level), levels.indexOf(ys.level))];
      const measured = level === "measurement";
      const setting = measured ? Number(device.select.value) : null;
      const emulated = measured && data.settings[setting].emulated;
      device.label.hidden = !measured;
      device.label.style.display = measured ? "" : "none";
      const front = new Set(data.fronts[[xs.name, ys.name].sort().join(" ")]);
      const values = [];
      data.points[level].forEach(([figures, group, kind, where, lines], index) => {
        const [vx, vy] = [figures[xs.index], figures[ys.index]];
        if (vx === null || vy === null || (measured && where !== setting)) return;
        const tip = {}; // its keys and values alternate, each a number of a text
        for (let i = 0; i < lines.length; i += 2) tip[data.texts[lines[i]]] = data.texts[lines[i + 1]];
        values.push({ x: vx, y: vy, kind: front.has(index) ? data.kinds[0] : data.texts[kind], group: data.texts[group], tip });
      });
      values.sort((a, b) => data.kinds.indexOf(b.kind) - data.kinds.indexOf(a.kind)); // the front is drawn last, on top
      const spec = structuredClone(template);
      delete spec.usermeta;
      const note = emulated ? "emulated" : "";
      spec.datasets.points = values;
      spec.encoding.x = { field: "x", ...xs.axes[note] };
      spec.encoding.y = { field: "y", ...ys.axes[note] };
      spec.layer[0].mark.interpolate = xs.goal === "minimize" ? "step-after" : "step-before";
      spec.description = `${ys.label} against ${xs.label}, with the front as a line`;
      const members = values.filter((value) => value.kind === data.kinds[0]).length;
      const what = { trial: "trials", artifact: "files", measurement: "files" }[level];
      verdict.textContent = `${members} of ${values.length} ${what} are on the front of ${ys.phrase} and ${xs.phrase}`
        + (measured ? `, on ${data.settings[setting].text}` : "") + "."
        + (xs.test || ys.test ? " Test figures are for reading: they choose no winner." : "");
      return show(name, spec);
    }
    for (const { select } of [x, y, device]) select.addEventListener("change", update);
    return update();
  }

  // Tables ----------------------------------------------------------------------------------------------------------------

  function sortBy(head) {
    const table = head.closest("table"), body = table.tBodies[0], index = head.cellIndex;
    const descending = head.getAttribute("aria-sort") === "ascending";
    const numeric = head.classList.contains("number");
    const key = (row) => { const cell = row.cells[index]; return cell.dataset.order ?? (numeric ? "" : cell.textContent); };
    const compare = numeric ? (a, b) => Number(a) - Number(b) : (a, b) => a.localeCompare(b, undefined, { numeric: true });
    const rows = [...body.rows].sort((a, b) => {
      const [ka, kb] = [key(a), key(b)];
      if (ka === "" || kb === "") return (ka === "") - (kb === ""); // unknown figures last, either way
      return descending ? compare(kb, ka) : compare(ka, kb);
    });
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    body.append(...rows);
  }

  async function copy(button) {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch { // pages from disk may not use the clipboard in some browsers: select the text instead
      getSelection().selectAllChildren(button);
      document.execCommand("copy");
    }
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1200);
  }

  document.addEventListener("click", (event) => {
    const head = event.target.closest("th"), button = event.target.closest(".copy");
    if (head) sortBy(head);
    if (button) copy(button);
    if (event.target.closest("#mode")) setMode(root.dataset.mode === "dark" ? "light" : "dark");
  });
  systemDark.addEventListener("change", () => setMode(systemDark.matches ? "dark" : "light"));
  let before = "light";
  addEventListener("beforeprint", () => { before = root.dataset.mode; if (before === "dark") setMode("light"); });
  addEventListener("afterprint", () => { if (before === "dark") setMode("dark"); });

  root.dataset.mode = systemDark.matches ? "dark" : "light";
  const drawing = Object.entries(payload.charts).map(([name, spec]) => spec.usermeta?.front ? frontControls(name, spec) : show(name, spec));
  Promise.all(drawing).then(() => { root.dataset.ready = "yes"; });
})();
