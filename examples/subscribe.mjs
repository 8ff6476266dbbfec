// Print what is said, as it is scored:  node examples/subscribe.mjs [ws://127.0.0.1:8765/v1/scores?queue=billing]
// Runs with node 22 or later and nothing installed (node 20.10: node --experimental-websocket …), and in a browser.
// It goes on after a lost connection, with nothing missed and nothing printed twice.

const url = process.argv[2] ?? "ws://127.0.0.1:8765/v1/scores";
let cursor = null;

function listen() {
  const resume = cursor ? `${url.includes("?") ? "&" : "?"}from=${encodeURIComponent(cursor)}` : "";
  const gateway = new WebSocket(url + resume);
  gateway.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    cursor = message.cursor ?? cursor;
    const { role, text, sentiment } = message.event ?? {};
    if (message.type === "hello") console.log("connected, at", cursor);
    else if (sentiment) console.log(role.padEnd(8), (sentiment.score < 0 ? "" : "+") + sentiment.score.toFixed(2), text);
    else console.log(message.type, message.message ?? "");
  };
  gateway.onclose = ({ reason }) => {
    console.error("lost the gateway:", reason);
    setTimeout(listen, 1000);
  };
}

listen();
