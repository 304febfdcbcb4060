// The brush. The server decides what a mask becomes from the strokes; here they are shown as it will paint them.
const find = name => element.querySelector(name);
const keep = window.localStorage;
let task = null, base = null, labels = null, photo = null, strokes = [], open = null, cursor = [0, 0], held = false;

const canvas = () => find("canvas");
const tell = text => { find(".told").textContent = text; };
const radius = () => Number(find("input.radius").value);
const chosen = () => Number(find("select.label").value);
const place = () => `clip-es strokes ${task.run} ${task.image_id} ${task.seen}`;

function pixels(uri, width, height) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => {
      const flat = document.createElement("canvas");
      flat.width = width; flat.height = height;
      const context = flat.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      resolve(context.getImageData(0, 0, width, height).data);
    };
    image.onerror = reject;
    image.src = uri;
  });
}

function colour(left, top, right, bottom) {
  left = Math.max(0, left); top = Math.max(0, top);
  right = Math.min(task.width, right); bottom = Math.min(task.height, bottom);
  if (right <= left || bottom <= top) return;
  const share = Number(find(".strength").value) / 100, context = canvas().getContext("2d");
  const out = context.createImageData(right - left, bottom - top);
  for (let y = top, to = 0; y < bottom; y++) for (let x = left; x < right; x++, to += 4) {
    const at = y * task.width + x, mark = task.marks[labels[at]];
    let cover = mark && labels[at] ? mark.rgb : null, dim = 1 - 0.55 * share;
    if (cover && mark.striped && ((mark.striped === 1 ? x + y : x - y + 5 * task.height) % 5) < 2) cover = [24, 24, 28];
    for (let part = 0; part < 3; part++)
      out.data[to + part] = cover ? (1 - share) * photo[4 * at + part] + share * cover[part] : dim * photo[4 * at + part];
    out.data[to + 3] = 255;
  }
  context.putImageData(out, left, top);
}

function lay(stroke, from) {  // segments of a stroke from a point on, with the same rule as the server
  const r = stroke.radius / task.scale, points = stroke.points.map(([x, y]) => [x / task.scale, y / task.scale]);
  for (let i = Math.max(1, from); i < Math.max(2, points.length); i++) {
    const [x0, y0] = points[i - 1], [x1, y1] = points[Math.min(i, points.length - 1)];
    const dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy;
    const left = Math.max(0, Math.floor(Math.min(x0, x1) - r)), right = Math.min(task.width, Math.ceil(Math.max(x0, x1) + r));
    const top = Math.max(0, Math.floor(Math.min(y0, y1) - r)), bottom = Math.min(task.height, Math.ceil(Math.max(y0, y1) + r));
    for (let y = top; y < bottom; y++) for (let x = left; x < right; x++) {
      const px = x + 0.5 - x0, py = y + 0.5 - y0;
      const t = length ? Math.min(1, Math.max(0, (px * dx + py * dy) / length)) : 0;
      if ((px - t * dx) ** 2 + (py - t * dy) ** 2 <= r * r) labels[y * task.width + x] = stroke.label;
    }
    colour(left, top, right, bottom);
  }
}

function redraw() {
  labels.set(base);
  colour(0, 0, task.width, task.height);
  for (const stroke of strokes) lay(stroke, 0);
}

function remember() {
  const text = JSON.stringify(strokes);
  try { strokes.length ? keep.setItem(place(), text) : keep.removeItem(place()); } catch { /* full: they stay in this page */ }
  tell(`${task.image_id}: ${strokes.length} ${strokes.length === 1 ? "stroke" : "strokes"} not saved yet.`);
}

function begin(at) {
  open = { label: chosen(), radius: radius() * task.scale, points: [at.map(value => value * task.scale)] };
  strokes.push(open);
  lay(open, 0);
}

function go_on(at) {
  open.points.push(at.map(value => Math.round(value * task.scale * 100) / 100));
  lay(open, open.points.length - 1);
}

function end() { if (open) { open = null; remember(); } }

function take_back() { if (strokes.length) { strokes.pop(); redraw(); remember(); } }

function where(event) {
  const box = canvas().getBoundingClientRect();
  return [(event.clientX - box.left) * task.width / box.width, (event.clientY - box.top) * task.height / box.height];
}

function show_brush() {
  const box = canvas().getBoundingClientRect(), ring = find(".brush"), zoom = box.width / task.width;
  ring.style.width = ring.style.height = `${2 * radius() * zoom}px`;
  ring.style.left = `${(cursor[0] - radius()) * zoom}px`;
  ring.style.top = `${(cursor[1] - radius()) * zoom}px`;
}

async function load(text) {
  if (!text) return;
  const next = JSON.parse(text);
  if (next.saved && task) { try { keep.removeItem(place()); } catch { /* no storage */ } }
  task = next; strokes = []; open = null;
  photo = await pixels(task.picture, task.width, task.height);
  const grey = await pixels(task.mask, task.width, task.height);
  base = new Uint8Array(task.width * task.height);
  for (let i = 0; i < base.length; i++) base[i] = grey[4 * i];
  labels = base.slice();
  const board = canvas();
  board.width = task.width; board.height = task.height;
  find(".board").style.maxWidth = `min(960px, calc(85vh * ${task.width / task.height}))`;  // all of it in the window
  cursor = [task.width / 2, task.height / 2];
  const select = find("select.label"), before = select.value;
  select.replaceChildren(...task.labels.map(([label, name]) => new Option(name, label)));
  if (task.labels.some(([label]) => String(label) === before)) select.value = before;
  find("ul.legend").replaceChildren(...task.legend.map(row => {
    const item = document.createElement("li"), swatch = document.createElement("i"), name = document.createElement("span");
    swatch.style.background = row.css; name.textContent = row.name; item.append(swatch, name);
    return item;
  }));
  for (const part of element.querySelectorAll(".tools, .board")) part.hidden = false;
  let kept = null;
  try { kept = JSON.parse(keep.getItem(place())); } catch { /* no storage */ }
  if (Array.isArray(kept) && kept.length) strokes = kept;
  redraw(); show_brush();
  if (strokes.length) { remember(); tell(`${find(".told").textContent} They were painted before and are brought back.`); }
  else tell(task.told);
  board.dataset.picture = task.image_id;
}

element.addEventListener("pointerdown", event => {
  if (!task || event.target !== canvas() || event.button !== 0) return;
  event.target.setPointerCapture(event.pointerId);
  cursor = where(event);
  begin(cursor);
});
element.addEventListener("pointermove", event => {
  if (!task || event.target !== canvas()) return;
  cursor = where(event); show_brush();
  if (open) go_on(cursor);
});
for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, end);
element.addEventListener("keydown", event => {
  if (!task || event.target !== canvas()) return;
  const step = (event.shiftKey ? 4 : 0.5) * Math.max(2, radius());
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (moves[event.key]) {
    cursor = [Math.min(task.width, Math.max(0, cursor[0] + moves[event.key][0])),
      Math.min(task.height, Math.max(0, cursor[1] + moves[event.key][1]))];
    if (held && open) go_on(cursor);
  } else if (event.key === " ") { if (!held) { held = true; begin(cursor); } }
  else if (event.key.toLowerCase() === "z") take_back();
  else if (event.key === "+" || event.key === "-") {
    const size = find("input.radius");
    size.value = radius() + (event.key === "+" ? 1 : -1);
    find("output.radius").textContent = size.value;
  } else return;
  event.preventDefault(); show_brush();
});
element.addEventListener("keyup", event => { if (event.key === " " && held) { held = false; end(); } });
element.addEventListener("input", event => {
  if (event.target.matches("input.radius")) { find("output.radius").textContent = event.target.value; if (task) show_brush(); }
  if (event.target.matches(".strength") && task) colour(0, 0, task.width, task.height);
});
element.addEventListener("click", event => {
  if (event.target.matches(".undo")) take_back();
  if (event.target.matches(".save") && task) {
    if (!strokes.length) { tell("Nothing is painted yet."); return; }
    tell("Saving ...");
    trigger("save", { picture: task.image_id, seen: task.seen, strokes });
  }
});
watch("value", () => load(props.value));
load(props.value);
