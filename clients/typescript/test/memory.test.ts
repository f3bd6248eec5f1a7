import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, initialized, initializers, optimizers } from "../src/index.js";
import { TestServer } from "./server.js";

const COUNT = 25_000_000;
/** Chunks that were sent or received stay for a while as garbage; one copy of 100 MB exceeds this. */
const BOUND_BYTES = 80 << 20;

const peakBytes = () => 1024 * process.resourceUsage().maxRSS;

test("while 100 MB are streamed each way, memory stays at the caller's arrays", async () => {
  await using server = await TestServer.start({ durability: "ephemeral" });
  const gradients = { w: new Float32Array(COUNT).fill(1) };
  const into = { w: new Float32Array(COUNT).fill(2) };
  for (const dataConnections of [false, true]) {
    const client = connect(server.address, { dataConnections });
    const spec = { optimizer: optimizers.sgd({ learningRate: 1 }) };
    const small = await client.createSession({ w: initialized([4], initializers.zeros()) }, spec);
    await small.step({ w: new Float32Array(4) }, { pull: true }); // the code is compiled, and the buffers are there
    const session = await client.createSession({ w: initialized([COUNT], initializers.zeros()) }, spec);
    const before = peakBytes();
    for (let step = 1; step <= 3; step++) {
      await session.step(gradients, { pull: true, into });
      assert.deepEqual([into.w[0], into.w.at(-1)], [-step, -step]);
    }
    const grown = peakBytes() - before;
    assert.ok(grown <= BOUND_BYTES, `${grown} bytes more, ${dataConnections ? "over a data connection" : "over gRPC"}`);
    await session.delete();
    client.close();
  }
});
