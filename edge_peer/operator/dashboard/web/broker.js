/** The connection: MQTT over WebSockets to whoever has served this page, reading only. */
import { KINDS } from "./documents.js";

const mqtt = globalThis.mqtt;
const RECONNECT_MS = 1000;

/**
 * Connect, and stay so.
 * @param config {federation, username, password}; federation "+": all of the broker.
 * @param on {state(connected, reason), message(topic, payload, retained)}.
 */
export function connect(config, on) {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const client = mqtt.connect(`${scheme}//${location.host}/mqtt`, {
    protocolVersion: 5,
    clean: true,
    clientId: `viewer-${[...crypto.getRandomValues(new Uint8Array(8))].map((it) => it.toString(16).padStart(2, "0")).join("")}`,
    username: config.username ?? undefined,
    password: config.password ?? undefined,
    reconnectPeriod: RECONNECT_MS,
    keepalive: 60,
    // Else it would start a worker from a blob, which the page's policy does not allow.
    timerVariant: "native",
    resubscribe: false,
  });
  client.on("connect", () => {
    on.state(true, "");
    client.subscribe(
      KINDS.map((kind) => `fl/v1/${config.federation}/+/${kind}`),
      { qos: 1 },
    );
  });
  client.on("message", (topic, payload, packet) => on.message(topic, payload, packet.retain));
  client.on("close", () => on.state(false, "connection lost"));
  client.on("error", (error) => on.state(false, error.message));
  return client;
}
