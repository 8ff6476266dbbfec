// uPlot, fetched when the first plot is drawn: the first view of a page needs none of it.
//
// A changer must know: vendor/ holds it as its makers publish it (NOTICE); it sets a global, which is read here alone.

let asked = null;

export function plotting() {
  asked ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = "vendor/uPlot.iife.min.js";
    script.onload = () => resolve(window.uPlot);
    script.onerror = () => {
      asked = null;
      script.remove();
      reject(new Error("uPlot"));
    };
    document.head.append(script);
  });
  return asked;
}

export const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
export const axisLook = (more) => ({
  stroke: color("quiet"),
  grid: { stroke: color("line"), width: 1 },
  ticks: { show: false },
  font: "11px system-ui, sans-serif",
  ...more,
});
