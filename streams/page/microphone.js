// The microphone into Calltide (docs/ingestion-listen.md), and what is heard in it while it is spoken.
//
// A changer must know: the recording is kept in this page's memory for "save" here, an hour of it at most (RECORDED);
// what the server keeps, it keeps by its own.

import { protocols, save } from "./api.js";
import { $, button, callAddress, clock, element, feeling, link, percent, signed, svg, withChildren, write } from "./dom.js";
import t from "./en.js";
import { configuration } from "./live.js";

const RECORDED = 36000; // packets of 100 ms
let stop = null;
let interim = null;
let recording = null;
let scores = [];
let began = 0;

function say(text, isError = false) {
  const state = $("mic-state");
  state.className = isError ? "negative" : "";
  write(state, text);
}

async function start() {
  const { microphone } = await configuration();
  const media = await navigator.mediaDevices.getUserMedia({
    // The voice as it is: a call centre's own telephone line does no more, and loudness is measured.
    audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
  });
  let audio = new AudioContext({ sampleRate: 16000 });
  let source;
  try {
    source = audio.createMediaStreamSource(media);
  } catch {
    // Firefox does not convert a microphone's rate: it is sent as it is.
    audio = new AudioContext();
    source = audio.createMediaStreamSource(media);
  }
  await audio.audioWorklet.addModule("samples-worklet.js");
  const node = new AudioWorkletNode(audio, "samples", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
  const query = new URLSearchParams({ rate: audio.sampleRate, save: $("mic-save").checked });
  const socket = new WebSocket(`${microphone}?${query}`, protocols());
  recording = { rate: audio.sampleRate, packets: [], call: "" };
  scores = [];
  $("mic-words").replaceChildren();
  $("mic-after").replaceChildren();
  draw();
  socket.onopen = () => {
    node.port.onmessage = ({ data }) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(data ?? JSON.stringify({ type: "stop" }));
      if (!data) return release();
      if (recording.packets.length < RECORDED) recording.packets.push(data);
      level(new Int16Array(data));
    };
    source.connect(node);
    began = Date.now();
    stop = () => {
      source.disconnect();
      node.port.postMessage("rest");
      stop = null;
      $("mic-button").disabled = true;
      say(t.microphone.last);
    };
    say(t.microphone.listening(""));
    running(true);
  };
  socket.onmessage = ({ data }) => hear(JSON.parse(data));
  socket.onclose = ({ code, reason }) => {
    release();
    $("mic-interim").textContent = "";
    if (code === 1000) say(t.microphone.ended);
    else say(recording.call ? t.microphone.broken(code, reason) : t.microphone.nobody(microphone), true);
    running(false);
    after();
    stop = null;
  };
  function release() {
    media.getTracks().forEach((track) => track.stop());
    if (audio.state !== "closed") audio.close();
  }
}

function running(isOn) {
  $("mic-button").disabled = false;
  $("mic-button").setAttribute("aria-pressed", String(isOn));
  write($("mic-button"), isOn ? t.microphone.stop : t.microphone.start);
  $("mic-save").disabled = isOn;
  if (!isOn) $("mic-level").value = 0;
}

function level(samples) {
  const loudness = Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length) / 32768;
  // −60 to 0 dB of full scale.
  $("mic-level").value = Math.max(0, 1 + Math.log10(Math.max(loudness, 1e-3)) / 3);
  write($("mic-clock"), clock(Date.now() - began));
}

function hear({ type, call, event }) {
  if (type === "started") {
    recording.call = call;
    say(t.microphone.listening(call));
  } else if (type === "interim") {
    interim = event.start_ms;
    write($("mic-interim"), event.text);
  } else if (type === "score") {
    // The utterance is finished; if the next one has begun already, that stays.
    if (event.start_ms >= interim) write($("mic-interim"), "");
    if (!event.text) return;
    scores.push(event);
    const line = element("li", "", event.text);
    if (event.sentiment) line.append(" ", element("span", `feel ${event.sentiment.label}`, `${t.feelings[event.sentiment.label]} ${signed(event.sentiment.score)}`));
    if (event.emotion) line.append(" ", element("span", "quiet", `${t.emotions[event.emotion.label]} ${percent(event.emotion.probabilities[event.emotion.label])}`));
    $("mic-words").append(line);
    line.scrollIntoView({ block: "nearest" });
    draw();
  }
}

// How it goes: the score so far, and each utterance's own.
function draw() {
  const last = scores.at(-1);
  const score = $("mic-score");
  write(score, last ? signed(last.running.score) : "–");
  score.className = `score ${last ? feeling(last.running.score) : "neutral"}`;
  const [width, height] = [$("mic-chart").clientWidth || 600, 120];
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": t.microphone.chart(scores.length, last ? signed(last.running.score) : "") });
  drawn.append(svg("line", { class: "zero", x1: 0, x2: width, y1: height / 2, y2: height / 2 }));
  const scored = scores.filter(({ sentiment }) => sentiment);
  const most = Math.max(10000, last?.end_ms ?? 0);
  const at = (ms, value) => [((width - 8) * ms) / most + 4, ((height - 12) / 2) * (1 - value) + 6].map((place) => place.toFixed(1));
  if (scored.length) drawn.append(svg("path", { class: "customer", d: `M${scored.map(({ end_ms, running }) => at(end_ms, running.score).join(" ")).join("L")}` }));
  for (const { end_ms, sentiment, text } of scored) {
    const [cx, cy] = at(end_ms, sentiment.score);
    drawn.append(withChildren(svg("circle", { class: "customer", cx, cy, r: 4 }), svg("title", {}, `${signed(sentiment.score)}: ${text}`)));
  }
  $("mic-chart").replaceChildren(drawn);
}

function after() {
  const parts = [];
  if (recording.packets.length) parts.push(button("", t.microphone.save, () => save(wav(recording), `${recording.call || "microphone"}.wav`)));
  if (recording.call) parts.push(link("", t.microphone.open, callAddress(recording.call)));
  $("mic-after").replaceChildren(...parts);
}

// One channel of 16 bit: a header of 44 bytes, then the samples as they were sent.
function wav({ rate, packets }) {
  const bytes = packets.reduce((sum, packet) => sum + packet.byteLength, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((letter, place) => head.setUint8(at + place, letter.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true);
  head.setUint16(22, 1, true);
  head.setUint32(24, rate, true);
  head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  text(36, "data");
  head.setUint32(40, bytes, true);
  return new Blob([head, ...packets], { type: "audio/wav" });
}

export function open() {
  draw();
  const there = Boolean(navigator.mediaDevices?.getUserMedia);
  $("mic-button").disabled = !there;
  if (!there) say(t.microphone.none, true);
}

export function close() {
  stop?.();
}

$("mic-button").onclick = async () => {
  if (stop) return stop();
  $("mic-button").disabled = true;
  say(t.microphone.asking);
  try {
    await start();
  } catch (error) {
    running(false);
    say({ NotAllowedError: t.microphone.refused, NotFoundError: t.microphone.noDevice }[error.name] ?? t.microphone.failed(error.message), true);
  }
};
