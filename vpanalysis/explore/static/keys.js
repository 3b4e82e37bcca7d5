// JupyterLab hears keys before anything inside an output does, and takes arrows and letters for its own while a list or a
// button has the focus. Inside an explorer they belong to the controls; what goes with Ctrl, Alt or Meta stays
// JupyterLab's. Only a mark on the very element that has the focus counts. It is set when the focus comes, and taken away
// when such a key goes down: once the letter comes, it is too late.
const MARK = "data-lm-suppress-shortcuts";

function render({ el }) {
  el.style.display = "none";
  const mine = (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const live = target && target.closest(".vp-live");
    if (!live || !live.contains(el)) return;
    if (event.ctrlKey || event.metaKey || event.altKey) target.removeAttribute(MARK);
    else target.setAttribute(MARK, "true");
  };
  const kinds = ["focusin", "keydown", "keyup"];
  for (const kind of kinds) window.addEventListener(kind, mine, true);
  return () => kinds.forEach((kind) => window.removeEventListener(kind, mine, true));
}

export default { render };
