// In the thread of the sound card: float samples become 16 bit, and go out 100 ms at a time.
registerProcessor("samples", class extends AudioWorkletProcessor {
  constructor() {
    super();
    this.held = new Int16Array(sampleRate / 10);
    this.count = 0;
    // Asked for the rest, it gives what it holds, then nothing: that is the end.
    this.port.onmessage = () => {
      this.port.postMessage(this.held.slice(0, this.count).buffer);
      this.port.postMessage(null);
    };
  }
  process([[channel]]) {
    for (const sample of channel ?? []) {
      this.held[this.count++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
      if (this.count === this.held.length) {
        this.port.postMessage(this.held.slice().buffer);
        this.count = 0;
      }
    }
    return true;
  }
});
