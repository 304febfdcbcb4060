// Tells when the server has gone, and when it has come back as another one.
(() => {
  let first = null, banner = null, lost = false;
  const say = text => {
    if (!text) { banner?.remove(); banner = null; return; }
    if (!banner) {
      banner = document.createElement("div");
      banner.className = "gone"; banner.setAttribute("role", "alert");
      document.body.prepend(banner);
    }
    if (banner.textContent !== text) banner.textContent = text;
  };
  const ask = async () => {
    try {
      const answer = await fetch("alive", { cache: "no-store" });
      const boot = answer.headers.get("x-boot");
      if (!answer.ok || !boot) throw new Error("no answer");
      first ??= lost ? "" : boot;  // The one that made this page may have died before it was asked.
      say(boot === first ? "" : "The server was started again. Reload this page; what you typed and painted is kept.");
    } catch {
      lost = true;
      say("The server has stopped. What you typed and painted is kept: start clip-es ui again, then reload this page.");
    }
  };
  setInterval(ask, 2000);
  ask();
  // Gradio leaves some controls without a name that a screen reader could say.
  const name = (found, text) => { if (!found.getAttribute("aria-label")) found.setAttribute("aria-label", text); };
  setInterval(() => {
    for (const input of document.querySelectorAll("input[type=file]")) name(input, "Bring a file");
  }, 1000);
})();
