// The player: the browser's own audio controls over one canvas (waveform, spectrogram, tracks) with a cursor in step.
// Nothing is fetched; the clip and its pictures come with the widget's state.

const LEFT = 56, RIGHT = 8, HEAD = 16, WAVE = 56, MAP = 112, BARS = 64, AXIS = 22;
const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 3600];

const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const copyOf = (view) => bytesOf(view).slice().buffer; // a copy starts where every type may start

function make(tag, name, parent) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (parent) parent.appendChild(made);
  return made;
}

function signed(value) {
  const size = Math.abs(value);
  return (value < 0 ? "−" : "+") + size.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 || !size ? 2 : 4);
}

function picture(width, height, colour) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      // Lowest frequency first in the data, at the bottom on the screen.
      const from = colour(height - 1 - row, column);
      const to = 4 * (row * width + column);
      image.data[to] = from[0];
      image.data[to + 1] = from[1];
      image.data[to + 2] = from[2];
      image.data[to + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

function render({ model, el }) {
  const root = make("div", "vp-player", el);
  root.setAttribute("role", "group");
  const audio = make("audio", "", root);
  audio.controls = true;
  audio.preload = "auto";
  const stage = make("div", "vp-stage", root);
  stage.tabIndex = 0;
  stage.setAttribute("role", "slider");
  stage.setAttribute("aria-label", "Position in the clip");
  stage.title = "Click or arrow keys: move; space: play or pause";
  const canvas = make("canvas", "", stage);
  canvas.setAttribute("aria-hidden", "true");
  const cursor = make("div", "vp-cursor", stage);
  const reading = make("div", "vp-reading", root);

  let url = null, frame = 0, drawing = 0, closed = false;
  let clip = null, samples = null, mel = null, tracks = [];

  const seconds = () => (clip ? clip.seconds : 0);
  const width = () => Math.max(stage.clientWidth - LEFT - RIGHT, 10);
  const xOf = (time) => LEFT + (seconds() ? time / seconds() : 0) * width();

  function place() {
    const time = Math.min(audio.currentTime || 0, seconds());
    cursor.style.transform = `translateX(${xOf(time)}px)`;
    const where = `${time.toFixed(2)} of ${seconds().toFixed(2)} s`;
    const here = tracks.map((track) => {
      const number = Math.min(Math.floor(time / track.step), track.values.length - 1);
      const value = track.values[Math.max(number, 0)] ?? 0;
      return `${track.name.split(" (")[0]}: ${signed(value)} ${track.unit}`;
    });
    const text = [where, ...here].join(" · ");
    reading.textContent = clip ? text : "";
    stage.setAttribute("aria-valuenow", time.toFixed(2));
    stage.setAttribute("aria-valuetext", text);
  }

  function follow() {
    cancelAnimationFrame(frame);
    place();
    if (!closed && !audio.paused && !audio.ended) frame = requestAnimationFrame(follow);
  }

  function seek(time) {
    if (!clip) return;
    audio.currentTime = Math.min(Math.max(time, 0), seconds());
    place();
  }

  function draw() {
    drawing = 0;
    if (closed || !clip || !stage.clientWidth) return;
    const style = getComputedStyle(root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [ink, line, blue, orange] = ["--vp-ink", "--vp-line", "--vp-truth", "--vp-claim"].map(colour);
    const tall = tracks.reduce((sum, track) => sum + HEAD + (track.image ? MAP : BARS), 2 * HEAD + WAVE + MAP + AXIS);
    const dense = window.devicePixelRatio || 1;
    canvas.width = Math.round(stage.clientWidth * dense);
    canvas.height = Math.round(tall * dense);
    canvas.style.height = `${tall}px`;
    const context = canvas.getContext("2d");
    context.scale(dense, dense);
    context.font = `11px ${style.fontFamily || "sans-serif"}`;
    const wide = width();
    let y = 0;
    const say = (text, x, at, align) => {
      context.fillStyle = ink;
      context.textAlign = align;
      context.fillText(text, x, at);
    };
    const hertz = (names, height) =>
      names.forEach(([name, share]) => say(name, LEFT - 5, y + Math.min(Math.max(height * (1 - share) + 4, 9), height), "right"));

    say("waveform", LEFT + 5, y + 11, "left");
    y += HEAD;
    const most = samples.reduce((high, value) => Math.max(high, Math.abs(value)), 1);
    context.fillStyle = ink;
    for (let x = 0; x < wide; x++) {
      const from = Math.floor((x / wide) * samples.length);
      const to = Math.max(from + 1, Math.floor(((x + 1) / wide) * samples.length));
      let low = 0, high = 0;
      for (let k = from; k < to && k < samples.length; k++) {
        low = Math.min(low, samples[k]);
        high = Math.max(high, samples[k]);
      }
      const top = y + WAVE / 2 - (high / most) * (WAVE / 2);
      context.fillRect(LEFT + x, top, 1, Math.max(((high - low) / most) * (WAVE / 2), 1));
    }
    y += WAVE;
    say("log-mel spectrogram", LEFT + 5, y + 11, "left");
    y += HEAD;
    context.imageSmoothingEnabled = false;
    context.drawImage(mel, LEFT, y, wide, MAP);
    hertz(clip.ticks, MAP);
    y += MAP;

    for (const track of tracks) {
      say(track.name, LEFT + 5, y + 11, "left");
      y += HEAD;
      const scale = wide / seconds();
      if (track.image) {
        context.save();
        context.beginPath();
        context.rect(LEFT, y, wide, MAP);
        context.clip();
        context.drawImage(track.image, LEFT, y, track.values.length * track.step * scale, MAP);
        context.restore();
        hertz(track.ticks, MAP);
        y += MAP;
        continue;
      }
      const peak = track.values.reduce((high, value) => Math.max(high, Math.abs(value)), 1e-12);
      const middle = y + BARS / 2;
      track.values.forEach((value, number) => {
        const height = (Math.abs(value) / peak) * (BARS / 2 - 2);
        context.fillStyle = value > 0 ? blue : orange;
        const x = LEFT + number * track.step * scale;
        const end = Math.min(x + Math.max(track.step * scale - 0.5, 0.5), LEFT + wide);
        if (end > x) context.fillRect(x, value > 0 ? middle - height : middle, end - x, height);
      });
      context.fillStyle = line;
      context.fillRect(LEFT, middle, wide, 1);
      say(signed(peak), LEFT - 5, y + 10, "right");
      say(signed(-peak), LEFT - 5, y + BARS - 2, "right");
      y += BARS;
    }

    const step = STEPS.find((one) => seconds() / one <= Math.max(wide / 55, 1)) || 3600;
    for (let k = 0; k * step <= seconds() + 1e-9; k++) {
      const time = k * step;
      context.fillStyle = line;
      context.fillRect(xOf(time), y, 1, 4);
      say(`${+time.toFixed(1)} s`, xOf(time), y + 15, time > seconds() - step / 4 ? "right" : "center");
    }
    place();
  }

  function redraw() {
    if (!drawing && !closed) drawing = requestAnimationFrame(draw);
  }

  function release() {
    audio.pause();
    cancelAnimationFrame(frame);
    audio.removeAttribute("src");
    if (url) URL.revokeObjectURL(url);
    url = null;
  }

  function named() {
    const title = model.get("title") || "Player";
    root.setAttribute("aria-label", title);
    audio.setAttribute("aria-label", clip ? `${title}: ${clip.name}` : title);
  }

  function load() {
    const next = model.get("clip");
    release();
    clip = next && next.wav ? next : null;
    audio.hidden = stage.hidden = !clip;
    named();
    if (!clip) {
      canvas.width = canvas.height = 0;
      reading.textContent = model.get("note");
      return;
    }
    samples = new Int16Array(copyOf(clip.wav).slice(44));
    url = URL.createObjectURL(new Blob([bytesOf(clip.wav)], { type: "audio/wav" }));
    audio.src = url;
    const levels = bytesOf(clip.mel), colours = bytesOf(clip.palette);
    mel = picture(clip.columns, clip.bins, (bin, column) => {
      const at = 3 * levels[bin * clip.columns + column];
      return colours.subarray(at, at + 3);
    });
    stage.setAttribute("aria-valuemin", "0");
    stage.setAttribute("aria-valuemax", seconds().toFixed(2));
    retrack();
  }

  function retrack() {
    tracks = (model.get("tracks") || []).map((sent) => {
      const track = {
        name: sent.name, unit: sent.unit, step: sent.step_s, ticks: sent.ticks,
        values: new Float32Array(copyOf(sent.values)), image: null,
      };
      if (sent.image) {
        const data = bytesOf(sent.image);
        track.image = picture(sent.columns, sent.bins, (bin, column) => {
          const at = 3 * (bin * sent.columns + column);
          return data.subarray(at, at + 3);
        });
      }
      return track;
    });
    redraw();
  }

  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 0.5 : 0.1;
    const now = audio.currentTime || 0;
    const moves = {
      ArrowLeft: now - step, ArrowDown: now - step, ArrowRight: now + step, ArrowUp: now + step,
      PageDown: now - 1, PageUp: now + 1, Home: 0, End: seconds(),
    };
    if (event.key in moves) seek(moves[event.key]);
    else if (event.key === " ") audio.paused ? audio.play().catch(() => {}) : audio.pause();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const onPointer = (event) => {
    if (event.type === "pointermove" && !(event.buttons & 1)) return;
    const box = stage.getBoundingClientRect();
    seek(((event.clientX - box.left - LEFT) / width()) * seconds());
  };
  const onNote = () => { if (!clip) reading.textContent = model.get("note"); };

  // As in keys.js, for a player that stands alone: JupyterLab hears keys first and has shortcuts on arrows and space.
  const onEarly = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) event.target.removeAttribute("data-lm-suppress-shortcuts");
    else event.target.setAttribute("data-lm-suppress-shortcuts", "true");
  };
  for (const kind of ["focusin", "keydown", "keyup"]) root.addEventListener(kind, onEarly, true);
  stage.addEventListener("keydown", onKey);
  stage.addEventListener("pointerdown", onPointer);
  stage.addEventListener("pointermove", onPointer);
  for (const name of ["play", "pause", "ended", "seeking", "seeked", "timeupdate", "loadedmetadata"]) {
    audio.addEventListener(name, follow);
  }
  model.on("change:clip", load);
  model.on("change:tracks", retrack);
  model.on("change:note", onNote);
  model.on("change:title", named);
  const sized = new ResizeObserver(redraw);
  sized.observe(stage);
  const themed = new MutationObserver(redraw);
  themed.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-jp-theme-name", "class"] });
  load();

  return () => {
    closed = true;
    release();
    cancelAnimationFrame(drawing);
    sized.disconnect();
    themed.disconnect();
    model.off("change:clip", load);
    model.off("change:tracks", retrack);
    model.off("change:note", onNote);
    model.off("change:title", named);
  };
}

export default { render };
