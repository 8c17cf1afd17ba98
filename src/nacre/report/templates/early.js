try {
  const kept = localStorage.getItem("nacre-scheme");
  if (kept === "dark" || kept === "light") document.documentElement.dataset.scheme = kept;
} catch (blocked) {}
