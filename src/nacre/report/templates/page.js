{
  const root = document.documentElement, button = document.getElementById("scheme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.scheme || (system.matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", button.textContent + " colours"); };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.scheme = dark() ? "light" : "dark";
    try { localStorage.setItem("nacre-scheme", root.dataset.scheme); } catch (blocked) {}
    label();
  });
  system.addEventListener("change", label);
  label();
  // a box that does not scroll is no stop for the keyboard
  const stops = () => document.querySelectorAll(".box").forEach((box) => {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0; else box.removeAttribute("tabindex");
  });
  stops();
  addEventListener("resize", stops);
  document.addEventListener("toggle", stops, true);
  addEventListener("beforeprint", () => document.querySelectorAll("details.fold").forEach((fold) => { if (fold.closest("#settings")) fold.open = true; }));
}
