import assert from "node:assert/strict";
import { readFileSync, rmSync } from "node:fs";
import { test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { writeHeapSnapshot } from "node:v8";
import { connect, initialized, initializers, optimizers } from "../src/index.js";
import { TestServer } from "./server.js";

const COUNT = 25_000_000;
const CHUNK_BYTES = 1 << 20;
/** What gRPC adds to chunks, and buffers of other things. */
const OTHER_BYTES = 64 << 10;
const SAMPLES = 6;

/** Bytes of array buffers that are alive. Only a heap snapshot has them: counters include garbage. */
function liveBytes(): number {
  const path = writeHeapSnapshot();
  const { snapshot, nodes, strings } = JSON.parse(readFileSync(path, "utf8"));
  rmSync(path);
  const fields: string[] = snapshot.meta.node_fields;
  const [name, size] = [fields.indexOf("name"), fields.indexOf("self_size")];
  let bytes = 0;
  for (let node = 0; node < nodes.length; node += fields.length) {
    if (strings[nodes[node + name]] === "system / JSArrayBufferData") bytes += nodes[node + size];
  }
  return bytes;
}

for (const dataConnections of [false, true]) {
  const way = dataConnections ? "a data connection" : "gRPC";
  test(`while 100 MB are streamed by ${way}, at most two chunks are in memory beside the caller's arrays`, async () => {
    await using server = await TestServer.start({ durability: "ephemeral" });
    const client = connect(server.address, { dataConnections });
    const spec = { optimizer: optimizers.sgd({ learningRate: 1 }) };
    const session = await client.createSession({ w: initialized([COUNT], initializers.zeros()) }, spec);
    const gradients = { w: new Float32Array(COUNT).fill(1) };
    const into = { w: new Float32Array(COUNT).fill(2) };
    await session.step(gradients, { pull: true, into });
    const before = liveBytes();
    let grown = 0;
    for (let sample = 1; sample <= SAMPLES; sample++) {
      let isDone = false;
      const step = session.step(gradients, { pull: true, into }).finally(() => {
        isDone = true;
      });
      for (let turn = 0; turn < 40 * sample && !isDone; turn++) await nextTurn();
      grown = Math.max(grown, liveBytes() - before);
      await step;
      assert.deepEqual([into.w[0], into.w.at(-1)], [-1 - sample, -1 - sample]);
    }
    assert.ok(grown <= 2 * CHUNK_BYTES + OTHER_BYTES, `${grown} bytes more`);
    await session.delete();
    client.close();
  });
}
