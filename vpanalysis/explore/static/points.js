// A picture whose places can be hovered, clicked and walked through by keyboard.
//
// The picture is SVG that Python drew, every string from data escaped there. Places are elements with `data-key`, their
// number. `selected` is the place that was chosen, `hovered` the one under the pointer, or -1.
function render({ model, el }) {
  const box = document.createElement("div");
  box.className = "vp-points vp-live";
  box.tabIndex = 0;
  box.setAttribute("role", "slider");
  el.appendChild(box);

  const count = () => model.get("names").length;

  function mark() {
    const chosen = model.get("selected");
    for (const place of box.querySelectorAll("[data-key]")) {
      place.classList.toggle("vp-picked", Number(place.dataset.key) === chosen);
    }
    box.setAttribute("aria-valuemin", "0");
    box.setAttribute("aria-valuemax", String(Math.max(0, count() - 1)));
    box.setAttribute("aria-valuenow", String(chosen));
    box.setAttribute("aria-valuetext", model.get("names")[chosen] ?? "");
  }

  function draw() {
    box.innerHTML = model.get("svg");
    box.setAttribute("aria-label", model.get("label"));
    mark();
  }

  function put(name, value) {
    if (model.get(name) === value) return;
    model.set(name, value);
    model.save_changes();
  }

  const keyOf = (target) => {
    const place = target.closest?.("[data-key]");
    return place ? Number(place.dataset.key) : -1;
  };
  const over = (event) => put("hovered", keyOf(event.target));
  const leave = () => put("hovered", -1);
  const click = (event) => {
    const key = keyOf(event.target);
    if (key >= 0) put("selected", key);
  };
  const press = (event) => {
    const now = model.get("selected");
    const last = count() - 1;
    const next = {
      ArrowLeft: now - 1, ArrowUp: now - 1, ArrowRight: now + 1, ArrowDown: now + 1, Home: 0, End: last,
    }[event.key];
    if (next === undefined || last < 0) return;
    // The notebook has its own use for arrows.
    event.preventDefault();
    event.stopPropagation();
    put("hovered", -1);
    put("selected", Math.min(last, Math.max(0, next)));
  };

  box.addEventListener("pointerover", over);
  box.addEventListener("pointerleave", leave);
  box.addEventListener("click", click);
  box.addEventListener("keydown", press);
  model.on("change:svg", draw);
  model.on("change:names", mark);
  model.on("change:selected", mark);
  draw();
  return () => {
    model.off("change:svg", draw);
    model.off("change:names", mark);
    model.off("change:selected", mark);
  };
}

export default { render };
