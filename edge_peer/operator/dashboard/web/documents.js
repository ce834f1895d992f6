/**
 * What peers publish, read without trust: a document whose known fields are missing, of another type or out of range is
 * refused as a whole, as edge_peer/protocol refuses it. Objects by peer become Maps: a peer may be called "constructor".
 */

const NAME = /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/;
const TOPIC = /^fl\/v1\/([^/]+)\/([^/]+)\/([a-z]+)$/;
const TEXT_MAX = 500;
const ENTRIES_MAX = 4096;

/** A document or topic that is not what it should be; the message says where. */
export class RefusedError extends Error {}

/** Kinds that the page subscribes to: the small ones. Models and updates it may not even read. */
export const KINDS = ["presence", "vote", "round", "evaluation", "sending", "history"];

/** Whether a text can name a peer or a federation. */
export function isName(text) {
  return typeof text === "string" && NAME.test(text);
}

/** A topic as [federation, peer, kind]. */
export function parseTopic(topic) {
  const [, federation, peer, kind] = TOPIC.exec(topic) ?? [];
  if (!isName(federation) || !isName(peer) || !KINDS.includes(kind)) {
    throw new RefusedError(`topic ${topic.slice(0, 120)} is none of a peer's`);
  }
  return [federation, peer, kind];
}

class Fields {
  constructor(value, path) {
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new RefusedError(`${path} is no object`);
    }
    this.value = value;
    this.path = path;
  }

  get(key) {
    return Object.hasOwn(this.value, key) ? this.value[key] : undefined;
  }

  has(key) {
    return (this.get(key) ?? null) !== null;
  }

  check(key, right, what) {
    const value = this.get(key);
    if (!right(value)) {
      throw new RefusedError(`${this.path}.${key} is not ${what}`);
    }
    return value;
  }

  text(key) {
    return this.check(key, (it) => typeof it === "string" && it.length <= TEXT_MAX, "a short text");
  }

  name(key) {
    return this.check(key, isName, "a name");
  }

  flag(key) {
    return this.check(key, (it) => typeof it === "boolean", "true or false");
  }

  number(key, minimum = -1e15, maximum = 1e30) {
    return this.check(key, (it) => Number.isFinite(it) && it >= minimum && it <= maximum, "a number in its range");
  }

  integer(key, minimum = 0) {
    return this.check(key, (it) => Number.isSafeInteger(it) && it >= minimum, "an integer in its range");
  }

  optional(key, read) {
    return this.has(key) ? read.call(this, key) : null;
  }

  share(key) {
    return this.number(key, 0, 1);
  }

  object(key) {
    return new Fields(this.get(key), `${this.path}.${key}`);
  }

  names(key) {
    const right = (it) => Array.isArray(it) && it.length <= ENTRIES_MAX && it.every(isName);
    return this.check(key, right, "a list of names");
  }

  /** An object by names as a Map, each value read by `read(fields, name)`. */
  map(key, read) {
    const inner = this.object(key);
    const names = Object.keys(inner.value);
    if (names.length > ENTRIES_MAX || !names.every(isName)) {
      throw new RefusedError(`${this.path}.${key} has other keys than names`);
    }
    return new Map(names.sort().map((name) => [name, read(inner, name)]));
  }

  /** A list of numbers or nulls, as long as `length`. */
  column(key, length) {
    const right = (it) =>
      Array.isArray(it) && it.length === length && it.every((item) => item === null || Number.isFinite(item));
    return this.check(key, right, "a column of numbers");
  }
}

const text = (fields, name) => fields.text(name);
const number = (fields, name) => fields.number(name);

function report(fields) {
  return {
    accuracy: fields.share("accuracy"),
    loss: fields.number("loss", 0),
    examples: fields.integer("examples", 1),
    int8: fields.optional("int8_accuracy", fields.share),
  };
}

const READERS = {
  presence: (it) => ({
    session: it.name("session"),
    online: it.flag("online"),
    control: it.flag("control"),
    train: it.flag("train"),
    score: it.number("score"),
    examples: it.integer("examples"),
    testExamples: it.integer("test_examples"),
    modelId: it.name("model_id"),
    election: it.integer("election"),
    note: it.text("note"),
    strained: it.has("strained") && it.flag("strained"),
    health: it.has("health") ? it.map("health", number) : new Map(),
  }),
  vote: (it) => ({ session: it.name("session"), term: it.integer("term", 1), candidate: it.name("candidate") }),
  round: (it) => {
    const settings = it.object("settings");
    return {
      session: it.name("session"),
      term: it.integer("term", 1),
      state: it.check("state", (value) => ["waiting", "training", "finished"].includes(value), "a state"),
      modelId: it.name("model_id"),
      runId: it.optional("run_id", it.name),
      runNumber: it.integer("run_number"),
      round: it.integer("round"),
      base: it.optional("base", (key) => it.object(key).text("sha256")),
      attempt: it.integer("attempt"),
      participants: it.names("participants"),
      deadlineS: it.number("deadline_s", 0),
      accepted: it.map("accepted", text),
      closedAccepted: it.map("closed_accepted", text),
      refused: it.map("refused", text),
      missing: it.map("missing", text),
      reason: it.text("reason"),
      accuracy: it.optional("accuracy", it.share),
      int8: it.optional("int8_accuracy", it.share),
      accuracyRound: it.integer("accuracy_round"),
      reports: it.map("reports", (fields, name) => report(fields.object(name))),
      complete: it.flag("complete"),
      epsilon: it.optional("epsilon", it.number),
      roundsMax: settings.integer("rounds_max", 1),
      target: settings.optional("target_accuracy", settings.share),
    };
  },
  evaluation: (it) => ({
    session: it.name("session"),
    runId: it.name("run_id"),
    round: it.integer("round"),
    sha256: it.text("sha256"),
    report: report(it.object("report")),
  }),
  sending: (it) => ({
    session: it.name("session"),
    runId: it.name("run_id"),
    round: it.integer("round", 1),
    bytes: it.integer("bytes"),
    seconds: it.number("seconds", 0),
    loss: it.number("loss", 0),
  }),
  history: (it) => {
    const rounds = it.check("rounds", (value) => Array.isArray(value) && value.length <= ENTRIES_MAX, "a list");
    const column = (key) => it.column(key, rounds.length);
    return {
      session: it.name("session"),
      runId: it.name("run_id"),
      testExamples: it.integer("test_examples", 1),
      rounds: column("rounds"),
      accuracy: column("accuracy"),
      loss: column("loss"),
      int8: column("int8_accuracy"),
      trainingS: column("training_s"),
      evaluationS: column("evaluation_s"),
      sent: column("bytes_sent"),
      received: column("bytes_received"),
    };
  },
};

/** Read a document's bytes. Throws RefusedError. */
export function readDocument(kind, payload) {
  let value;
  try {
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(payload));
  } catch {
    throw new RefusedError(`${kind} is not JSON`);
  }
  return READERS[kind](new Fields(value, kind));
}
