(() => {
  const say = (html) => { const box = document.getElementById("vc-message"); if (box) box.innerHTML = html; };
  const text = (value) => { const node = document.createElement("p"); node.textContent = value; return node.outerHTML; };
  const wrong = (value) => say('<div class="vc-error" role="alert">' + text(value) + "</div>");
  const follow = (id) => { window.location.search = "?id=" + encodeURIComponent(id); };
  const answered = (status, body) => {
    let content = {};
    try { content = JSON.parse(body); } catch { /* it says nothing */ }
    if (status === 202) follow(content.id);
    else wrong(content.error?.message || "The server did not take it (" + status + ").");
  };
  const post = (path, options) => fetch(path, { method: "POST", ...options })
    .then(async (answer) => answered(answer.status, await answer.text()))
    .catch(() => wrong("The server does not answer."));
  const upload = (file) => {
    const form = document.getElementById("vc-drop");
    const most = Number(form?.dataset.maxBytes || 0);
    if (most && file.size > most) {
      wrong("The file has " + Math.ceil(file.size / 1e6) + " MB; at most " + Math.floor(most / 1e6) + " MB are taken.");
      return;
    }
    const body = new FormData();
    body.append("file", file);
    const request = new XMLHttpRequest();
    request.open("POST", "v1/videos");
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) say(text("Uploading: " + Math.round(100 * event.loaded / event.total) + " %"));
    };
    request.onload = () => answered(request.status, request.responseText);
    request.onerror = () => wrong("The upload broke off. Perhaps the file is too large, or the server is gone.");
    request.send(body);
  };
  window.vemoclap = {
    link: (url) => { if (url && url.trim()) post("v1/videos", { headers: { "Content-Type": "application/json" }, body: JSON.stringify({ url: url.trim() }) }); else wrong("Please enter a link."); },
    sample: (number) => post("v1/samples/" + number, {}),
  };
  const zone = (event) => event.target.closest?.("#vc-drop");
  document.addEventListener("change", (event) => { if (event.target.id === "vc-file" && event.target.files[0]) upload(event.target.files[0]); });
  document.addEventListener("dragover", (event) => { if (zone(event)) { event.preventDefault(); zone(event).classList.add("over"); } });
  document.addEventListener("dragleave", (event) => { zone(event)?.classList.remove("over"); });
  document.addEventListener("drop", (event) => {
    if (!zone(event)) return;
    event.preventDefault();
    zone(event).classList.remove("over");
    if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
  });
  document.addEventListener("click", (event) => {
    const item = event.target.closest?.("[data-seek]");
    const player = document.getElementById("vc-player");
    if (item && player) { player.currentTime = Number(item.dataset.seek); player.scrollIntoView({ block: "nearest" }); }
  });
})();
