(() => {
  const root = document.currentScript.parentElement;
  const { texts, captions, frames } = JSON.parse(root.querySelector("script").textContent);
  const [image, caption, said] = ["img", "p", ".said"].map((part) => root.querySelector(part));
  const sliders = [...root.querySelectorAll("input")];
  const address = addressOf(root);
  const places = () => sliders.map((slider) => slider.value).join();
  const start = places();
  let timer = 0;
  frames[0] = image.src;
  const show = () => {
    const at = sliders.reduce((index, slider, k) => index * texts[k].length + Number(slider.value), 0);
    image.src = frames[at];
    image.alt = caption.textContent = captions[at];
    sliders.forEach((slider, k) => {
      const text = texts[k][slider.value];
      slider.setAttribute("aria-valuetext", text);
      slider.parentElement.querySelector("span").textContent = text;
    });
    clearTimeout(timer); // a screen reader is told the caption once, when the sliders rest
    timer = setTimeout(() => { said.textContent = caption.textContent; }, 700);
    address.write(places() === start ? {} : { at: places() });
  };
  const restore = () => {
    const found = (address.read().at ?? start).split(",");
    sliders.forEach((slider, k) => { slider.value = texts[k][found[k]] === undefined ? 0 : found[k]; });
    show();
  };
  sliders.forEach((slider) => slider.addEventListener("input", show));
  address.button(root);
  address.follow(restore);
  if (address.read().at) restore();
})();
