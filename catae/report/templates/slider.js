const steps = document.querySelector(".steps"), strip = document.querySelector("#interpolation-png img");
const [canvas, input, output] = ["canvas", "input", "output"].map((name) => steps.querySelector(name));
const { left, top: first, side, pitch, columns } = JSON.parse(steps.dataset.layout);
const show = () => {
  const step = input.valueAsNumber, x = left + (step % columns) * pitch, y = first + Math.floor(step / columns) * pitch;
  canvas.getContext("2d").drawImage(strip, x, y, side, side, 0, 0, side, side);
  output.value = `Step ${step} of ${input.max}, alpha = ${((step - 1) / (input.max - 1)).toFixed(2)}`;
};
strip.decode().then(() => {
  steps.hidden = false;
  input.addEventListener("input", show);
  show();
});
