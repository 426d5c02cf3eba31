"use strict";
(() => {
  const { pictures, charts } = JSON.parse(document.getElementById("data").textContent);
  const drawn = new Map();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const select = document.getElementById("variant");

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  function theme() {
    const quiet = { labelColor: colour("muted"), titleColor: colour("muted"), titleFontWeight: 400 };
    const narrow = innerWidth < 600;
    return {
      background: "transparent",
      font: getComputedStyle(document.body).fontFamily,
      view: { stroke: null },
      bar: { color: colour("accent"), binSpacing: 1, cornerRadiusEnd: 1 },
      circle: { color: colour("accent") },
      axis: { ...quiet, labelFontSize: 12, titleFontSize: 12, titlePadding: 8, gridColor: colour("line"),
        domainColor: colour("line"), tickColor: colour("line"), labelLimit: narrow ? 110 : 160 },
      axisX: { grid: false, labelFlush: false, labelOverlap: true, tickCount: narrow ? 4 : 7 },
      axisY: { tickCount: 5, domain: false, ticks: false },
      legend: { ...quiet, labelColor: colour("text"), labelFontSize: 12, orient: "top", columns: narrow ? 2 : 7,
        symbolOpacity: 1, symbolType: "circle", labelLimit: narrow ? innerWidth / 2 - 90 : 160 },
      range: { category: [1, 2, 3, 4, 5, 6, 7].map((number) => colour(`class-${number}`)) },
    };
  }

  function filled(spec) {
    const copy = structuredClone(spec);
    for (const value of copy.data.values) {
      if (typeof value.picture === "number") value.image = pictures[value.picture];
    }
    return copy;
  }

  async function draw(element) {
    const spec = charts[element.id];
    if (!spec) return;
    const options = { renderer: "svg", actions: false, config: theme(), tooltip: { theme: "custom" } };
    const { view } = await vegaEmbed(element, filled(spec), options);
    drawn.get(element)?.finalize();
    drawn.set(element, view);
    choose(document.querySelector(`select[data-map="${element.id}"]`));
  }

  function choose(filter) {
    const view = filter && drawn.get(document.getElementById(filter.dataset.map));
    if (view) view.signal("chosen", filter.value).runAsync();
  }

  function show(id) {
    for (const article of document.querySelectorAll("article")) {
      article.hidden = article.id !== id;
      if (article.hidden) continue;
      for (const image of article.querySelectorAll("img[data-picture]:not([src])")) {
        image.src = pictures[Number(image.dataset.picture)];
      }
      for (const element of article.querySelectorAll(".chart")) {
        if (!drawn.has(element)) draw(element);
      }
    }
  }

  select.addEventListener("change", () => show(select.value));
  for (const filter of document.querySelectorAll("select[data-map]")) {
    filter.addEventListener("change", () => choose(filter));
  }
  dark.addEventListener("change", () => {
    for (const element of drawn.keys()) draw(element);
  });
  show(select.value);
})();
