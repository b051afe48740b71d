/** The WebSocket /live: what goes out is packed, what comes in are objects. */

export const SOUND = 1;
export const PICTURE = 2;
const CROWDED = 100_000; // bytes waiting to leave: about two pictures

/** heard(message) for each message of the service, closed(event) once. */
export function openSocket(start, heard, closed) {
  const address = new URL("live", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  const socket = new WebSocket(address);
  socket.onopen = () => tell(start);
  socket.onmessage = ({ data }) => heard(JSON.parse(data));
  socket.onclose = closed;
  const open = () => socket.readyState === WebSocket.OPEN;

  function tell(message) {
    if (open()) socket.send(JSON.stringify(message));
  }

  return {
    tell,
    /** time: seconds since the start; data: ArrayBuffer */
    send(kind, time, data) {
      if (!open()) return;
      const bytes = new Uint8Array(9 + data.byteLength);
      const head = new DataView(bytes.buffer);
      head.setUint8(0, kind);
      head.setFloat64(1, time, true);
      bytes.set(new Uint8Array(data), 9);
      socket.send(bytes);
    },
    crowded: () => socket.bufferedAmount > CROWDED,
    close: () => socket.close(),
  };
}
