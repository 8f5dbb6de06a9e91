const $ = (selector) => document.querySelector(selector);
const complain = (what) => { $("#problem").textContent = what; $("#problem").hidden = false; };
const ask = async (address, options) => {
  const answer = await fetch(address, options);
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
};
const trying = (work) => async (...given) => {
  try { await work(...given); $("#problem").hidden = true; } catch (error) { complain(error.message); }
};
const random = () => Math.floor(Math.random() * 2 ** 32);

const model = await ask("/model");
const canvas = $("#picture"), pen = canvas.getContext("2d");
canvas.width = canvas.height = model.size;
$("#run").textContent = model.name;

// What is shown: a start, which is the square's mix or a sample, and so far along each direction.
let start = new Float32Array(model.dimensions);
const corners = [];
const sliders = model.directions.map((_, index) => {
  const label = document.createElement("label"), input = document.createElement("input");
  Object.assign(input, { type: "range", min: -3, max: 3, step: 0.05, value: 0 });
  label.append(`Direction ${index + 1}`, input);
  $("#sliders").append(label);
  input.addEventListener("input", () => want());
  return input;
});
const code = () => start.map((number, place) =>
  sliders.reduce((sum, input, index) => sum + input.valueAsNumber * model.directions[index][place], number));

// One code is on its way at a time; of those that come meanwhile only the last is sent.
const socket = new WebSocket(`ws://${location.host}/frames`);
socket.binaryType = "arraybuffer";
let waiting = true, wanted = false, frames = 0, times = [];
const want = () => {
  wanted = true;
  if (!waiting) send();
};
const send = () => {
  waiting = true;
  wanted = false;
  socket.send(code());
};
socket.onopen = () => { waiting = false; if (wanted) send(); };
socket.onclose = () => complain("The server is gone: start catae play again, and load this page anew.");
socket.onmessage = ({ data }) => {
  pen.putImageData(new ImageData(new Uint8ClampedArray(data), model.size), 0, 0);
  canvas.dataset.frames = ++frames;
  const now = performance.now();
  times = [...times.filter((time) => now - time < 1000), now];
  if (times.length > 5) $("#rate").value = `${Math.round((times.length - 1) / (now - times[0]) * 1000)} frames/s`;
  waiting = false;
  if (wanted) send();
};

const mix = () => {
  const [x, y] = [$("#across").valueAsNumber, $("#down").valueAsNumber];
  $("#square i").style.left = `${100 * x}%`;
  $("#square i").style.top = `${100 * y}%`;
  const [a, b, c, d] = corners.map((corner) => corner.code);
  start = start.map((_, i) => (1 - y) * ((1 - x) * a[i] + x * b[i]) + y * ((1 - x) * c[i] + x * d[i]));
  want();
};
const drag = (event) => {
  const { left, top, width, height } = $("#square").getBoundingClientRect();
  $("#across").value = (event.clientX - left) / width;
  $("#down").value = (event.clientY - top) / height;
  mix();
};
$("#square").addEventListener("pointerdown", (event) => { $("#square").setPointerCapture(event.pointerId); drag(event); });
$("#square").addEventListener("pointermove", (event) => { if (event.buttons) drag(event); });
$("#across").addEventListener("input", mix);
$("#down").addEventListener("input", mix);

const places = ["top left", "top right", "bottom left", "bottom right"], buttons = [...document.querySelectorAll(".corner")];
const put = (index, corner) => {
  corners[index] = corner;
  const image = buttons[index].querySelector("img");
  image.src = corner.picture;
  image.alt = `${places[index]}: ${corner.name}; take another`;
  buttons[index].title = corner.name;
};
const take = async (index, file) => {
  const [own] = await ask("/encode", { method: "POST", body: file });
  put(index, own);
  mix();
};
const others = async () => {
  (await ask(`/cats?seed=${random()}`)).forEach((corner, index) => put(index, corner));
  mix();
};
buttons.forEach((button, index) => {
  button.addEventListener("click", trying(async () => { put(index, (await ask(`/cats?seed=${random()}`))[0]); mix(); }));
  button.addEventListener("dragover", () => button.classList.add("over"));
  button.addEventListener("dragleave", () => button.classList.remove("over"));
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", trying(async (event) => {
  event.preventDefault();
  buttons.forEach((button) => button.classList.remove("over"));
  const [file] = event.dataTransfer.files;
  if (file) await take(Math.max(0, buttons.indexOf(event.target.closest(".corner"))), file);
}));
$("#others").addEventListener("click", trying(others));
$("#own").addEventListener("change", trying(async ({ target }) => {
  if (target.files.length) await take(0, target.files[0]);
  target.value = "";
}));

const reset = () => { sliders.forEach((input) => { input.value = 0; }); want(); };
$("#reset").addEventListener("click", reset);

const sample = async () => {
  const [prior, seed] = [$("#prior").value, $("#seed").value];
  const drawn = await ask(`/samples?${new URLSearchParams({ prior, seed })}`);
  $("#samples").replaceChildren(...drawn.map((one) => {
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button";
    Object.assign(image, { src: one.picture, alt: `${one.name} of ${prior}, seed ${seed}; start from it` });
    button.append(image);
    button.addEventListener("click", () => { start = Float32Array.from(one.code); reset(); });
    return button;
  }));
};
$("#prior").append(...model.priors.map((name) => new Option(name)));
$("#prior").addEventListener("change", trying(sample));
$("#seed").addEventListener("change", trying(sample));
$("#resample").addEventListener("click", trying(async () => { $("#seed").value = random(); await sample(); }));
$("#save").addEventListener("click", () => { $("#save").href = canvas.toDataURL("image/png"); });

await trying(async () => {
  (await ask("/cats?seed=0")).forEach((corner, index) => put(index, corner));
  mix();
  await sample();
})();
