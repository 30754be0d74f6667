"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const COLOURS = {anger: "#d1495b", disgust: "#7a9e3d", fear: "#7d5ba6", joy: "#edae49", sadness: "#3f78b5", surprise: "#2a9d8f"};
const MORE = ["#8c6d46", "#c17fb5", "#5d6d7e", "#e07b39", "#4aa3c7", "#99582a"];
const colour = label => COLOURS[label] || MORE[Math.max(0, data.labels.indexOf(label)) % MORE.length];
const NAMES = {asr_sentiment: "speech", ocr_sentiment: "text read", face_emotion: "faces", beats: "sound", clip: "pictures", asr: "speech heard", ocr: "text read", caption: "caption"};
const named = feature => NAMES[feature] || feature;
const percent = share => share === null || share === undefined ? "–" : Math.round(share * 100) + " %";
const number = value => value.toLocaleString("en");

// Whatever comes from a video is text: nothing here makes markup of a string.
function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, handler] of Object.entries(value)) made.addEventListener(event, handler);
    else if (name === "css") Object.assign(made.style, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined && child !== false) made.append(child);
  return made;
}
function clock(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.floor(seconds), hours = Math.floor(whole / 3600), two = value => String(value).padStart(2, "0");
  return (hours ? hours + ":" + two(Math.floor(whole / 60) % 60) : Math.floor(whole / 60)) + ":" + two(whole % 60);
}
function chip(label, share) {
  if (!label) return make("span", {class: "chip none"}, "nothing to go by");
  return make("span", {class: "chip", css: {background: colour(label)}}, share === undefined || share === null ? label : label + " " + percent(share));
}

// ---- charts
const FONT = {family: "system-ui, sans-serif", size: 12, color: "#1c2330"};
function chart(title, traces, layout, kind) {
  const place = make("div", {class: "chart " + (kind || "")});
  const whole = {margin: {l: 48, r: 12, t: 8, b: 36}, font: FONT, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, bargap: .25, dragmode: false, ...layout};
  drawn.push(() => Plotly.newPlot(place, traces, whole, {displayModeBar: false, responsive: true}));
  return make("div", {}, make("h3", {}, title), place);
}
let drawn = [];
function draw() { for (const one of drawn.splice(0)) one(); }
const AXIS = {gridcolor: "#e6eaee", zeroline: false, fixedrange: true, automargin: true};

function overview() {
  const o = data.overview, labels = data.labels, cards = [], wide = [];
  const counts = values => ({...AXIS, tickformat: ",d", rangemode: "tozero", ...(Math.max(...values, 0) < 6 ? {dtick: 1} : {nticks: 6})});
  const figure = (value, what) => make("div", {}, make("b", {}, value), what);
  const figures = make("div", {class: "figures"}, figure(number(o.videos), "videos"), figure(number(o.predicted), "with an emotion"),
    o.nothing ? figure(number(o.nothing), "with nothing to go by") : null,
    figure(number(Object.values(o.failures).reduce((a, b) => a + b, 0)), "open failures"),
    o.quality ? figure(percent(o.quality.accuracy), "accuracy on " + number(o.quality.n) + " given labels") : null);
  if (labels.length) {
    cards.push(chart("Emotions", [{type: "bar", width: .8, x: labels, y: labels.map(l => o.labels[l]), marker: {color: labels.map(colour)}, hovertemplate: "%{x}: %{y} videos<extra></extra>"}], {xaxis: {...AXIS, showgrid: false, tickfont: {size: 11}, tickangle: 0}, yaxis: counts(Object.values(o.labels))}));
    cards.push(chart("Confidence", [{type: "bar", x: o.confidence.map((_, i) => i / 10 + .05), y: o.confidence, width: .09, marker: {color: "#2f62a8"}, hovertemplate: "about %{x:.0%}: %{y} videos<extra></extra>"}], {xaxis: {...AXIS, showgrid: false, range: [0, 1], tickformat: ".0%"}, yaxis: counts(o.confidence)}));
  }
  const found = Object.entries(o.coverage).sort((a, b) => a[1] - b[1]);
  if (found.length) cards.push(chart("Videos in which something was found", [{type: "bar", orientation: "h", y: found.map(([name]) => name), x: found.map(f => f[1]), marker: {color: "#2a9d8f"}, text: found.map(f => percent(f[1])), textposition: "auto", hovertemplate: "%{y}: %{x:.1%}<extra></extra>"}], {xaxis: {...AXIS, range: [0, 1], tickformat: ".0%"}, yaxis: {...AXIS, showgrid: false}}));
  const failures = Object.entries(o.failures);
  if (failures.length) cards.push(chart("Open failures by type", [{type: "bar", x: failures.map(f => f[0]), y: failures.map(f => f[1]), marker: {color: "#b3261e"}, hovertemplate: "%{x}: %{y}<extra></extra>"}], {xaxis: {...AXIS, showgrid: false, type: "category"}, yaxis: counts(failures.map(f => f[1]))}));
  const runs = o.runs.map(run => run.run.slice(0, 4) + "-" + run.run.slice(4, 6) + "-" + run.run.slice(6, 8) + " " + run.run.slice(9, 11) + ":" + run.run.slice(11, 13) + " " + run.run.slice(-3));
  cards.push(chart("Videos per run", [{type: "bar", x: runs, y: o.runs.map(r => r.videos), marker: {color: "#5d6d7e"}, hovertemplate: "%{x}: %{y} videos<extra></extra>"}], {xaxis: {...AXIS, showgrid: false, type: "category", nticks: 8}, yaxis: counts(o.runs.map(r => r.videos))}));
  if (labels.length && o.runs.some(run => run.labels.length)) {
    const told = o.runs.map(run => run.labels.reduce((a, b) => a + b, 0));
    cards.push(chart("Labels over runs (drift)", labels.map((label, at) => ({type: "bar", name: label, x: runs, y: o.runs.map((run, i) => told[i] ? run.labels[at] / told[i] : null), marker: {color: colour(label)}, hovertemplate: label + " %{y:.0%}<extra></extra>"})), {barmode: "stack", showlegend: true, legend: {orientation: "h", y: -.3, font: {size: 11}}, margin: {l: 48, r: 12, t: 8, b: 60}, xaxis: {...AXIS, showgrid: false, type: "category", nticks: 8}, yaxis: {...AXIS, tickformat: ".0%", range: [0, 1]}}));
  }
  if (o.quality) {
    const matrix = o.quality.matrix, shares = matrix.map(row => { const sum = row.reduce((a, b) => a + b, 0); return row.map(v => sum ? v / sum : 0); });
    wide.push(chart("Confusion: given (rows) and predicted", [{type: "heatmap", x: labels, y: labels, z: shares, text: matrix.map(row => row.map(String)), texttemplate: "%{text}", colorscale: [[0, "#f3f6fa"], [1, "#2f62a8"]], zmin: 0, zmax: 1, showscale: false, hovertemplate: "given %{y}, predicted %{x}: %{text}<extra></extra>"}], {xaxis: {...AXIS}, yaxis: {...AXIS, autorange: "reversed"}, margin: {l: 70, r: 12, t: 8, b: 50}}, "square"));
    const bins = o.quality.reliability;
    wide.push(chart("Reliability: how often predictions of a confidence are right", [
      {mode: "lines", x: [0, 1], y: [0, 1], line: {color: "#9aa4b0", dash: "dash", width: 1}, hoverinfo: "skip"},
      {mode: "lines+markers", x: bins.map(b => b.confidence), y: bins.map(b => b.accuracy), text: bins.map(b => b.n), marker: {color: "#d1495b", size: bins.map(b => 6 + 12 * Math.sqrt(b.n / o.quality.n))}, line: {color: "#d1495b"}, hovertemplate: "confidence %{x:.0%}, right %{y:.0%}, %{text} videos<extra></extra>"}], {xaxis: {...AXIS, range: [0, 1.02], tickformat: ".0%", title: {text: "confidence"}}, yaxis: {...AXIS, range: [0, 1.05], tickformat: ".0%", title: {text: "right"}}}, "square"));
  }
  return make("section", {}, make("h2", {}, "Overview"), figures, make("div", {class: "charts"}, cards), wide.length ? make("div", {class: "charts wide"}, wide) : null);
}

// ---- the table: sorted and filtered as arrays; no more than a page of rows is in the document
const PAGE = 50;
const state = {sort: "name", down: false, text: "", label: "", only: "", page: 0};
const words = video => [video.speech && video.speech.text, video.read && video.read.text, video.caption && video.caption[0]].filter(Boolean).join(" · ");
for (const video of data.videos) video.search = [video.name, video.uri, video.id, words(video), (video.tags || []).map(tag => tag[0]).join(" ")].join(" ").toLowerCase();
const SORT = {name: v => v.name.toLowerCase(), label: v => v.label || "", confidence: v => v.confidence === undefined || v.confidence === null ? -1 : v.confidence, given: v => v.given || "", seconds: v => v.seconds || 0, faces: v => (v.faces || []).length, words: v => words(v).length};
const ONLY = {"": "all", unsure: "unsure", wrong: "given label differs", none: "nothing to go by", failed: "with failures", faces: "with a face", speech: "with speech", text: "with text"};
const TESTS = {unsure: v => v.set && v.set.length > 2, wrong: v => v.given && v.label && v.given !== v.label, none: v => v.label === null, failed: v => v.failed.length, faces: v => v.faces && v.faces.length, speech: v => v.speech && v.speech.text, text: v => v.read && v.read.text};
function chosen() {
  const key = SORT[state.sort], text = state.text.toLowerCase();
  const rows = data.videos.filter(v => (!text || v.search.includes(text)) && (!state.label || v.label === state.label) && (!state.only || TESTS[state.only](v)));
  rows.sort((a, b) => { const x = key(a), y = key(b); return (x < y ? -1 : x > y ? 1 : 0) * (state.down ? -1 : 1); });
  return rows;
}
let refresh = () => {};
function table() {
  const given = data.videos.some(v => v.given), body = make("tbody"), head = make("tr"), pager = make("div", {class: "pager"});
  const pictures = data.videos.some(v => v.pictures.length);
  const columns = [["name", "video"], ["label", "emotion"], ["confidence", "confidence"], ...(given ? [["given", "given"]] : []), ["seconds", "length", "opt"], ["faces", "faces", "opt"], ["words", "said and written", "text"]];
  refresh = () => {
    head.replaceChildren(...(pictures ? [make("th")] : []), ...columns.map(([name, title, kind]) => make("th", {class: kind, "aria-sort": state.sort === name ? (state.down ? "descending" : "ascending") : null}, make("button", {on: {click: () => { state.down = state.sort === name ? !state.down : name === "confidence"; state.sort = name; state.page = 0; refresh(); }}}, title + (state.sort === name ? (state.down ? " ▾" : " ▴") : "")))));
    const rows = chosen(), pages = Math.max(1, Math.ceil(rows.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    body.replaceChildren(...rows.slice(state.page * PAGE, (state.page + 1) * PAGE).map(v => {
      const go = () => { location.hash = "v=" + encodeURIComponent(v.id); };
      const first = v.pictures[Math.floor(v.pictures.length / 2)];
      return make("tr", {tabindex: 0, on: {click: go, keydown: event => { if (event.key === "Enter") go(); }}},
        pictures ? make("td", {}, first ? make("img", {src: "data:image/webp;base64," + first[1], alt: ""}) : null) : null,
        make("td", {class: "name"}, v.name), make("td", {}, v.label === undefined ? (v.failed.length ? make("span", {class: "wrong"}, "failed") : "") : chip(v.label)),
        make("td", {class: "num"}, v.label ? percent(v.confidence) + (TESTS.unsure(v) ? " ?" : "") : ""),
        given ? make("td", {class: v.given && v.label && v.given !== v.label ? "wrong" : ""}, v.given || "") : null,
        make("td", {class: "num opt"}, v.seconds === null ? "" : clock(v.seconds)), make("td", {class: "num opt"}, (v.faces || []).length || ""),
        make("td", {class: "text"}, make("span", {}, words(v).slice(0, 300))));
    }));
    const to = page => () => { state.page = page; refresh(); };
    pager.replaceChildren(make("button", {disabled: state.page === 0, on: {click: to(state.page - 1)}}, "‹ before"),
      "page " + (state.page + 1) + " of " + pages + ", " + number(rows.length) + " of " + number(data.videos.length) + " videos",
      make("button", {disabled: state.page >= pages - 1, on: {click: to(state.page + 1)}}, "next ›"));
  };
  const on = (name, event) => ({[event]: e => { state[name] = e.target.value; state.page = 0; refresh(); }});
  const filters = make("div", {class: "filters"},
    make("input", {type: "search", id: "search", placeholder: "search names, speech, text, tags", "aria-label": "search", on: on("text", "input")}),
    make("select", {"aria-label": "emotion", on: on("label", "change")}, make("option", {value: ""}, "all emotions"), data.labels.map(l => make("option", {value: l}, l))),
    make("select", {"aria-label": "which videos", on: on("only", "change")}, Object.entries(ONLY).map(([value, text]) => make("option", {value}, value ? "only " + text : "all videos"))));
  refresh();
  return make("section", {}, make("h2", {}, "Videos"), filters, make("div", {class: "scroll"}, make("table", {}, make("thead", {}, head), body)), pager);
}

// ---- one video
let player = null;
function seek(seconds) {
  if (!player || seconds === null || seconds === undefined) return;
  player.currentTime = seconds;
  player.scrollIntoView({block: "nearest"});
}
const seeks = (seconds, text, kind) => make("span", {class: "seek " + (kind || ""), tabindex: 0, role: "button", on: {click: event => { event.stopPropagation(); seek(seconds); }, keydown: event => { if (event.key === "Enter") seek(seconds); }}}, text);
const at = seconds => seeks(seconds, clock(seconds), "t");

function pictures(v) {
  return make("div", {class: "pictures"}, v.pictures.map(([time, content]) => {
    const faces = (v.faces || []).filter(face => Math.abs(face[0] - time) < .02);
    const boxes = faces.map(([, x, y, w, h, expression, share]) => make("div", {class: "box" + (y + h > .85 ? " low" : "") + (x > .5 ? " right" : ""), css: {left: x * 100 + "%", top: y * 100 + "%", width: w * 100 + "%", height: h * 100 + "%"}}, make("span", {}, expression + (share === null ? "" : " " + percent(share)))));
    return make("figure", {on: {click: () => seek(time)}}, make("div", {class: "frame"}, make("img", {src: "data:image/webp;base64," + content, alt: "frame at " + clock(time)}), boxes), make("figcaption", {}, clock(time)));
  }));
}
function probabilities(v) {
  if (!v.p) return make("p", {class: "soft"}, v.label === null ? "Nothing to go by: no face, no text, nothing heard." : "Not predicted.");
  const order = data.labels.map((label, i) => [label, v.p[i]]).sort((a, b) => b[1] - a[1]);
  return make("div", {}, make("div", {class: "bars"}, order.flatMap(([label, share]) => [make("span", {}, label), make("div", {class: "bar"}, make("i", {css: {left: 0, width: share * 100 + "%", background: colour(label)}})), make("span", {class: "num"}, (share * 100).toFixed(1) + " %")])),
    v.valence !== null && v.valence !== undefined ? make("p", {class: "soft q"}, "valence " + v.valence.toFixed(2) + ", arousal " + v.arousal.toFixed(2) + (v.set && v.set.length > 1 ? "; in 90 % of cases one of " + v.set.join(", ") : "")) : null);
}
function why(v) {
  const w = v.why;
  if (!w) return make("p", {class: "soft"}, v.label ? "No explanation yet: run vemoclap-batch explain." : "");
  const most = Math.max(.01, ...w.parts.map(part => Math.abs(part[2])));
  const parts = [...w.parts].sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]));
  const telling = w.items.filter(item => item[3] > 0).slice(0, w.telling);
  return make("div", {},
    make("p", {class: "soft"}, (w.window ? clock(w.window[0]) + "–" + clock(w.window[1]) + ": " : "") + w.label + " " + (w.p * 100).toFixed(0) + " % = " + (w.empty * 100).toFixed(0) + " % with nothing known, and what each modality adds:"),
    make("div", {class: "bars"}, parts.flatMap(([name, present, value]) => [make("span", {class: present ? "" : "absent"}, named(name)), make("div", {class: "bar both"}, make("i", {css: {left: (value < 0 ? 50 - 50 * -value / most : 50) + "%", width: 50 * Math.abs(value) / most + "%", background: value < 0 ? "#d1495b" : "#2a9d8f"}})), make("span", {class: "num" + (present ? "" : " absent")}, present ? (value > 0 ? "+" : "") + (value * 100).toFixed(1) : "absent")])),
    telling.length ? make("p", {class: "soft q"}, "Most telling: ", telling.flatMap((item, i) => [i ? ", " : "", at(item[1]), " " + named(item[0]) + " (" + (item[3] * 100).toFixed(0) + " % less without)"])) : null);
}
function timeLine(v) {
  const windows = v.windows || [], several = windows.length > 1, last = v.seconds || Math.max(0, ...windows.map(w => w.e || 0));
  const items = v.why ? v.why.items : [];
  if (!last || (!several && !items.length && !v.speech)) return null;
  const traces = [], layout = {showlegend: several, legend: {orientation: "h", y: 1.02, yanchor: "bottom", font: {size: 11}}, xaxis: {...AXIS, range: [0, last], title: {text: "seconds"}, anchor: "y3"}, hovermode: "closest", margin: {l: 70, r: 10, t: 24, b: 40}, shapes: []};
  const rows = {probability: several ? [.56, 1] : null, affect: several ? [.36, .52] : null, known: several ? [0, .3] : [0, 1]};
  if (several) {
    const middle = windows.map(w => (w.s + w.e) / 2), text = windows.map(w => clock(w.s) + "–" + clock(w.e));
    data.labels.forEach((label, i) => traces.push({type: "scatter", mode: "lines+markers", name: label, x: middle, y: windows.map(w => w.p ? w.p[i] : null), text, line: {color: colour(label), width: 2, shape: "hvh"}, marker: {size: 4}, yaxis: "y", hovertemplate: label + " %{y:.0%}, %{text}<extra></extra>"}));
    for (const [name, key, dash] of [["valence", "v", "solid"], ["arousal", "a", "dot"]]) traces.push({type: "scatter", mode: "lines", name, x: middle, y: windows.map(w => w[key]), text, line: {color: "#5b6575", dash}, yaxis: "y2", hovertemplate: name + " %{y:.2f}, %{text}<extra></extra>"});
    layout.yaxis = {...AXIS, domain: rows.probability, range: [0, 1.02], tickformat: ".0%"};
    layout.yaxis2 = {...AXIS, domain: rows.affect, range: [-1, 1], nticks: 3, zeroline: true, zerolinecolor: "#c9cfd6"};
    for (const w of windows) if (!w.p) layout.shapes.push({type: "rect", xref: "x", yref: "paper", x0: w.s, x1: w.e, y0: 0, y1: 1, fillcolor: "#c9cfd6", opacity: .25, line: {width: 0}, layer: "below"});
  }
  // What was known when: grey where a modality is missing.
  const features = [...data.features].reverse();
  layout.yaxis3 = {...AXIS, domain: rows.known, showgrid: false, tickvals: features.map((_, i) => i), ticktext: features.map(named), range: [-.6, features.length - .4]};
  const cells = several ? windows : windows.slice(0, 1).map(w => ({...w, s: 0, e: last}));
  features.forEach((name, row) => {
    for (const w of cells) layout.shapes.push({type: "rect", xref: "x", yref: "y3", x0: w.s, x1: w.e, y0: row - .35, y1: row + .35, fillcolor: (w.missing || []).includes(name) ? "#d3d8de" : "#cfe6e2", opacity: several ? .8 : 1, line: {width: several ? .5 : 0, color: "#fff"}, layer: "below"});
    const own = items.filter(item => item[0] === name && item[1] !== null);
    const most = Math.max(.02, ...items.map(item => Math.abs(item[3])));
    traces.push({type: "scatter", mode: "markers", showlegend: false, yaxis: "y3", x: own.length ? own.map(item => (item[1] + item[2]) / 2) : [null], y: own.length ? own.map(() => row) : [null], text: own.map(item => clock(item[1]) + ": " + (item[3] >= 0 ? (item[3] * 100).toFixed(1) + " % less without" : (-item[3] * 100).toFixed(1) + " % more without")), marker: {color: own.map(item => item[3] >= 0 ? "#17796d" : "#d1495b"), size: own.map(item => 4 + 14 * Math.sqrt(Math.abs(item[3]) / most))}, hovertemplate: named(name) + " at %{text}<extra></extra>"});
  });
  if (!several) layout.showlegend = false;
  const place = make("div", {class: "chart", css: {height: (several ? 420 : 70 + 40 * features.length) + "px"}});
  drawn.push(() => Plotly.newPlot(place, traces, {font: FONT, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, ...layout}, {displayModeBar: false, responsive: true}).then(() => {
    place.addEventListener("click", event => {
      const axis = place._fullLayout.xaxis, x = event.clientX - place.getBoundingClientRect().left - axis._offset;
      if (x >= 0 && x <= axis._length) seek(axis.p2d(x));
    });
  }));
  const words = several ? "Probabilities, valence and arousal of each window; below, what was known (grey: missing)" : "What was known when (grey: missing)";
  return make("div", {class: "card timeline"}, make("h3", {}, "Time line"), make("p", {class: "soft"}, words + (items.length ? "; a dot is an item, the larger the more the emotion hangs on it, red where it speaks against." : ".") + (player ? " A click seeks the video." : "")), place);
}
function speech(v) {
  const s = v.speech;
  if (!s) return null;
  const lines = s.segments.map(([start, , text, words]) => make("li", {}, at(start), make("span", {}, words.length ? words.flatMap(([time, word], i) => [i ? " " : "", seeks(time, word)]) : seeks(start, text))));
  return make("div", {class: "card"}, make("h3", {}, "Heard" + (s.language ? " (" + s.language + ")" : "")), lines.length ? make("ul", {class: "lines"}, lines) : make("p", {class: "soft"}, s.text || "No speech."),
    s.original.length ? make("div", {}, make("h3", {}, "In the language spoken"), make("ul", {class: "lines"}, s.original.map(([time, text]) => make("li", {}, at(time), make("span", {}, text))))) : null,
    s.dropped.length ? make("p", {class: "soft q"}, "Left out as probably not said: ", s.dropped.map(([time, text, reason]) => "“" + text + "” at " + clock(time) + " (" + reason + ")").join("; ")) : null);
}
function read(v) {
  const r = v.read;
  if (!r) return null;
  // What several frames in turn show is said once.
  const frames = r.frames.filter(([, lines], i) => !i || JSON.stringify(lines) !== JSON.stringify(r.frames[i - 1][1]));
  return make("div", {class: "card"}, make("h3", {}, "Read"), frames.length ? make("ul", {class: "lines"}, frames.map(([time, lines]) => make("li", {}, at(time), make("span", {}, lines.flatMap(([text, note], i) => [i ? " / " : "", note ? make("span", {class: "absent"}, (text || "?") + " (" + note + ")") : text]))))) : make("p", {class: "soft"}, "No text."));
}
function sound(v) {
  const pairs = (v.events || []).map(([label, share]) => label + " " + percent(share)).concat(Object.entries(v.voice || {}).map(([name, value]) => name.replaceAll("_", " ") + " " + value));
  return pairs.length ? make("div", {class: "card"}, make("h3", {}, v.events ? "Sound events" : "Sound and voice"), make("ul", {class: "pairs"}, pairs.map(text => make("li", {}, text)))) : null;
}
function seen(v) {
  const caption = v.caption ? make("p", {}, v.caption[0], " ", v.caption[1] === null ? null : at(v.caption[1])) : null;
  const counts = {};
  for (const face of v.faces || []) counts[face[5]] = (counts[face[5]] || 0) + 1;
  const faces = Object.entries(counts).sort((a, b) => b[1] - a[1]).map(([name, count]) => make("li", {}, name + " face × " + count));
  const tags = (v.tags || []).map(([label, share]) => make("li", {}, label + " " + percent(share)));
  return caption || tags.length || faces.length ? make("div", {class: "card"}, make("h3", {}, "Seen"), caption, make("ul", {class: "pairs"}, faces, tags)) : null;
}
function video(v) {
  const facts = [v.seconds ? clock(v.seconds) : null, v.size ? v.size.join(" × ") : null, v.codec, v.audio === false ? "no sound" : null, "run " + v.run].filter(Boolean).join(" · ");
  player = null;
  let film = null;
  if (v.media) {
    const note = make("p", {class: "soft", hidden: true}, "The file cannot be played here: it is not where it was, or the browser does not know its format.");
    player = make("video", {controls: true, preload: "metadata", src: v.media, on: {error: () => { note.hidden = false; player && (player.hidden = true); player = null; }}});
    film = make("div", {}, player, note);
  }
  const link = v.link ? make("a", {href: v.link, rel: "noopener noreferrer"}, v.uri) : v.uri || v.id;
  const rows = chosen(), place = rows.indexOf(v), step = by => () => { location.hash = "v=" + encodeURIComponent(rows[place + by].id); };
  return make("div", {}, make("div", {class: "top"}, make("button", {on: {click: () => { location.hash = ""; }}}, "‹ all videos"), make("button", {disabled: place < 1, on: {click: step(-1)}}, "before"), make("button", {disabled: place < 0 || place + 1 >= rows.length, on: {click: step(1)}}, "next")),
    make("section", {}, make("div", {class: "top"}, make("h2", {}, v.name), v.label !== undefined ? chip(v.label, v.confidence) : null, v.given ? make("span", {class: "soft" + (v.label && v.given !== v.label ? " wrong" : "")}, "given: " + v.given) : null),
      make("p", {class: "facts"}, link, make("br"), facts), v.failed.map(text => make("p", {class: "failed"}, text)), v.warnings.map(text => make("p", {class: "soft"}, text)),
      make("div", {class: "two"}, make("div", {}, v.pictures.length ? pictures(v) : null, film), make("div", {}, make("div", {class: "card"}, make("h3", {}, "Emotion"), probabilities(v)), make("div", {class: "card"}, make("h3", {}, "Why"), why(v)))),
      timeLine(v), make("div", {class: "flow"}, speech(v), read(v), sound(v), seen(v))));
}
let home = null;
function route() {
  const match = /^#v=(.*)$/.exec(location.hash);
  let id = null;
  try { id = match && decodeURIComponent(match[1]); } catch { id = null; }
  const found = id !== null && data.videos.find(v => v.id === id);
  if (found) { main.replaceChildren(video(found)); scrollTo(0, 0); }
  else if (home) { main.replaceChildren(...home); player = null; refresh(); }
  else { home = [data.notes.length ? make("section", {class: "notes"}, data.notes.map(note => make("p", {}, note))) : null, overview(), table()].filter(Boolean); main.replaceChildren(...home); }
  draw();
  document.documentElement.dataset.ready = "1";
}
addEventListener("hashchange", route);
route();
})();
