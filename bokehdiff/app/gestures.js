// Drop or paste a photograph anywhere on the page, and a ring where the picture was clicked.
() => {
  const open = (files) => {
    const input = document.querySelector("#top input[type=file]");
    if (!input || !files || !files.length) return;
    const picked = new DataTransfer();
    picked.items.add(files[0]);
    input.files = picked.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const holdsFiles = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  const mark = (over) => document.body.classList.toggle("dropping", over);
  window.addEventListener("dragover", (event) => {
    if (holdsFiles(event)) { event.preventDefault(); mark(true); }
  });
  window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) mark(false); });
  window.addEventListener("drop", (event) => {
    mark(false);
    if (holdsFiles(event)) { event.preventDefault(); open(event.dataTransfer.files); }
  });
  window.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files || [])].filter((file) => file.type.startsWith("image/"));
    if (files.length) { event.preventDefault(); open(files); }
  });
  // What the picture may take up, in the screen's own pixels: previews need not be larger. Then the size of the one shown.
  window.placeOfPicture = () => {
    const column = document.querySelector("#left"), shown = document.querySelector("#stage img");
    const share = parseFloat(getComputedStyle(column).getPropertyValue("--picture-vh")) / 100;
    const place = [column.clientWidth, window.innerHeight * share].map((px) => Math.round(px * window.devicePixelRatio));
    return `${place.join("x")} ${shown?.naturalWidth ?? 0}x${shown?.naturalHeight ?? 0}`;
  };
  // A window that is drawn larger, or a phone that is turned, gets its picture once it has come to rest.
  let resting;
  window.addEventListener("resize", () => {
    clearTimeout(resting);
    resting = setTimeout(() => document.querySelector("#fit")?.click(), 400);
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest("#welcome")) document.querySelector("#open")?.click();
    if (event.target.tagName !== "IMG" || !event.target.closest("#stage")) return;
    const ring = document.createElement("div");
    ring.className = "focus-ring";
    ring.style.left = `${event.clientX}px`;
    ring.style.top = `${event.clientY}px`;
    document.body.append(ring);
    ring.addEventListener("animationend", () => ring.remove());
  });
}
