// One run of a Node order book over a flow; see matching_peer.py for the protocol.
// Usage: node matching_peer.cjs MODULE_FOLDER FLOW.json SECONDS
"use strict";

const { readFileSync } = require("node:fs");
const { resolve } = require("node:path");

const [folder, source, limit] = process.argv.slice(2);
const { OrderBook } = require(resolve(folder));
const { operations } = JSON.parse(readFileSync(source, "utf8"));
const CHUNK = 1000;
const SIDES = ["buy", "sell"];
const books = Array.from({ length: 1 + Math.max(...operations.map((o) => o[1])) }, () => new OrderBook());
let trades = 0;
let lots = 0;

// `done` holds makers that were filled, and the taker itself when it was filled.
function note(result, taker) {
  for (const order of result.done) {
    if (order.id !== taker) trades += 1;
  }
  if (result.partial && result.partial.id !== taker) trades += 1;
}

function submit(verb, book, id, side, price, size) {
  if (verb === 2) {
    const result = book.market({ side: SIDES[side], size });
    note(result, undefined);
    lots += size - result.quantityLeft;
    return;
  }
  const timeInForce = verb === 0 ? "GTC" : "IOC";
  const result = book.limit({ id, side: SIDES[side], size, price, timeInForce });
  note(result, id);
  lots += size - result.quantityLeft;
}

function step(chunk) {
  for (const [verb, instrument, ref, , side, price, size] of chunk) {
    const book = books[instrument];
    const id = String(ref);
    if (verb < 3) submit(verb, book, id, side, price, size);
    else if (verb === 3) book.cancel(id);
    else if (book.cancel(id)) submit(0, book, id, side, price, size);
  }
}

let done = 0;
let seconds = 0;
let failed = "";
while (done < operations.length && seconds < Number(limit)) {
  const chunk = operations.slice(done, done + CHUNK);
  const start = process.cpuUsage();
  try {
    step(chunk);
  } catch (error) {
    failed = String(error);
    break;
  }
  const used = process.cpuUsage(start);
  seconds += (used.user + used.system) / 1e6;
  done += chunk.length;
  console.log(JSON.stringify({ operations: done, seconds }));
}
const noteText = "amend: cancel, then limit";
console.log(JSON.stringify({ operations: done, seconds, traded: [trades, lots], failed, note: noteText }));
