const $ = (selector) => document.querySelector(selector);
const showProblem = (text) => { $("#problem").textContent = text; $("#problem").hidden = false; };
const request = async (address, options) => {
  const response = await fetch(address, options);
  if (!response.ok) throw new Error((await response.text()).trim());
  return response.json();
};
const reportErrors = (work) => async (...given) => {
  try { await work(...given); $("#problem").hidden = true; } catch (error) { showProblem(error.message); }
};
const randomSeed = () => Math.floor(Math.random() * 2 ** 32);

const model = await request("/model");
const canvas = $("#image"), context = canvas.getContext("2d");
canvas.width = canvas.height = model.size;
$("#run").textContent = model.name;

// The latent shown is a start, the mix of four corners or a sample, plus a step along each direction.
let start = new Float32Array(model.dimensions);
const corners = [];
const sliders = model.directions.map((_, index) => {
  const label = document.createElement("label"), input = document.createElement("input");
  Object.assign(input, { type: "range", min: -3, max: 3, step: 0.05, value: 0 });
  label.append(`Direction ${index + 1}`, input);
  $("#sliders").append(label);
  input.addEventListener("input", () => update());
  return input;
});
const latent = () => start.map((value, dimension) =>
  sliders.reduce((sum, input, index) => sum + input.valueAsNumber * model.directions[index][dimension], value));

// At most one latent is in flight. Of those that follow meanwhile, only the last is sent.
const socket = new WebSocket(`ws://${location.host}/frames`);
socket.binaryType = "arraybuffer";
let inFlight = true, changed = false, frames = 0, times = [];
const update = () => {
  changed = true;
  if (!inFlight) send();
};
const send = () => {
  inFlight = true;
  changed = false;
  socket.send(latent());
};
socket.onopen = () => { inFlight = false; if (changed) send(); };
socket.onclose = () => showProblem("The server has stopped. Run catae play again, then reload this page.");
socket.onmessage = ({ data }) => {
  context.putImageData(new ImageData(new Uint8ClampedArray(data), model.size), 0, 0);
  canvas.dataset.frames = ++frames;
  const now = performance.now();
  times = [...times.filter((time) => now - time < 1000), now];
  if (times.length > 5) $("#rate").value = `${Math.round((times.length - 1) / (now - times[0]) * 1000)} frames/s`;
  inFlight = false;
  if (changed) send();
};

const mix = () => {
  const [x, y] = [$("#across").valueAsNumber, $("#down").valueAsNumber];
  $("#square i").style.left = `${100 * x}%`;
  $("#square i").style.top = `${100 * y}%`;
  const [a, b, c, d] = corners.map((corner) => corner.latent);
  start = start.map((_, i) => (1 - y) * ((1 - x) * a[i] + x * b[i]) + y * ((1 - x) * c[i] + x * d[i]));
  update();
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
const setCorner = (index, corner) => {
  corners[index] = corner;
  const image = buttons[index].querySelector("img");
  image.src = corner.image;
  image.alt = `${places[index]}: ${corner.name}; replace`;
  buttons[index].title = corner.name;
};
const upload = async (index, file) => {
  const [corner] = await request("/encode", { method: "POST", body: file });
  setCorner(index, corner);
  mix();
};
const replaceAll = async () => {
  (await request(`/images?seed=${randomSeed()}`)).forEach((corner, index) => setCorner(index, corner));
  mix();
};
buttons.forEach((button, index) => {
  button.addEventListener("click", reportErrors(async () => {
    setCorner(index, (await request(`/images?seed=${randomSeed()}`))[0]);
    mix();
  }));
  button.addEventListener("dragover", () => button.classList.add("over"));
  button.addEventListener("dragleave", () => button.classList.remove("over"));
});
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", reportErrors(async (event) => {
  event.preventDefault();
  buttons.forEach((button) => button.classList.remove("over"));
  const [file] = event.dataTransfer.files;
  if (file) await upload(Math.max(0, buttons.indexOf(event.target.closest(".corner"))), file);
}));
$("#others").addEventListener("click", reportErrors(replaceAll));
$("#own").addEventListener("change", reportErrors(async ({ target }) => {
  if (target.files.length) await upload(0, target.files[0]);
  target.value = "";
}));

const reset = () => { sliders.forEach((input) => { input.value = 0; }); update(); };
$("#reset").addEventListener("click", reset);

const sample = async () => {
  const [prior, seed] = [$("#prior").value, $("#seed").value];
  const samples = await request(`/samples?${new URLSearchParams({ prior, seed })}`);
  $("#samples").replaceChildren(...samples.map((drawn) => {
    const button = document.createElement("button"), image = document.createElement("img");
    button.type = "button";
    Object.assign(image, { src: drawn.image, alt: `${drawn.name} of ${prior}, seed ${seed}; start from it` });
    button.append(image);
    button.addEventListener("click", () => { start = Float32Array.from(drawn.latent); reset(); });
    return button;
  }));
};
$("#prior").append(...model.priors.map((name) => new Option(name)));
$("#prior").addEventListener("change", reportErrors(sample));
$("#seed").addEventListener("change", reportErrors(sample));
$("#resample").addEventListener("click", reportErrors(async () => { $("#seed").value = randomSeed(); await sample(); }));
$("#save").addEventListener("click", () => { $("#save").href = canvas.toDataURL("image/png"); });

await reportErrors(async () => {
  (await request("/images?seed=0")).forEach((corner, index) => setCorner(index, corner));
  mix();
  await sample();
})();
