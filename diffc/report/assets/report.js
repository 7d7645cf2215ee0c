// The slider between dense and compressed samples: a range input, so the keyboard works by itself.
for (const box of document.querySelectorAll("[data-swipe]")) {
  const picture = box.querySelector(".swipe");
  const range = box.querySelector("input");
  const flip = box.querySelector("button");
  const show = () => {
    picture.style.setProperty("--cut", range.value + "%");
    const said = range.value + " % dense, the rest compressed";
    range.setAttribute("aria-valuetext", said);
  };
  range.addEventListener("input", show);
  flip.addEventListener("click", () => {
    range.value = Number(range.value) >= 50 ? 0 : 100;
    show();
  });
  show();
}
