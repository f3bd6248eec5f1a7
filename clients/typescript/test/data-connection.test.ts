import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { Splitter } from "../src/data-channel.js";
import { type Client, connect, ErrorReason, OptserveError, optimizers, tensor } from "../src/index.js";
import { StepStreamResponseSchema } from "../src/v1.js";
import { Network, TestServer, until } from "./server.js";

const ADAM = { optimizer: optimizers.adam({ learningRate: 0.01 }) };
const COUNT = 700_000; // in three chunks
let server: TestServer;

before(async () => {
  server = await TestServer.start();
});

after(() => server[Symbol.asyncDispose]());

/** Number of TCP connections that this process has. */
const sockets = () => process.getActiveResourcesInfo().filter((name) => name === "TCPSocketWrap").length;

function gradientOf(step: number): Float32Array {
  return Float32Array.from({ length: COUNT }, (_, i) => Math.sin(step + i));
}

/** Trains a session, and returns its parameters and how many connections there were. */
async function train(client: Client) {
  const session = await client.createSession({ w: tensor([COUNT], new Float32Array(COUNT)) }, ADAM);
  const stream = session.stream({ pull: true, window: 3 });
  const w = new Float32Array(COUNT);
  let most = 0;
  for await (const _ of stream.steps(
    Array.from({ length: 6 }, (_, step) => ({ w: gradientOf(step) })),
    { into: { w } },
  )) {
    most = Math.max(most, sockets());
  }
  await stream.close();
  await session.delete();
  return { w, most };
}

test("steps over a data connection have the bits of steps over gRPC", async () => {
  const before = sockets();
  const overGrpc = connect(server.address, { dataConnections: false });
  const expected = await train(overGrpc);
  overGrpc.close();
  await until("the connection is closed", () => sockets() === before);
  const client = connect(server.address);
  const found = await train(client);
  client.close();
  assert.equal(found.most, expected.most + 1);
  assert.deepEqual(found.w, expected.w);
});

test("behind a proxy, steps go over gRPC", async () => {
  await using network = await Network.to(server);
  const client = connect(network.address);
  const session = await client.createSession({ w: tensor([2], [0, 0]) }, ADAM);
  assert.equal((await session.step({ w: new Float32Array([1, 1]) })).step, 1);
  client.close();
});

test("a rejected step is known as such, and the next one is applied", async () => {
  const client = connect(server.address);
  const session = await client.createSession({ w: tensor([2], [0, 0]) }, ADAM);
  await session.step({ w: new Float32Array([1, 1]) });
  await assert.rejects(
    session.step({ w: new Float32Array([1, Number.NaN]) }),
    (error) => error instanceof OptserveError && error.reason === ErrorReason.NON_FINITE_GRADIENT,
  );
  assert.equal((await session.step({ w: new Float32Array([1, 1]) })).step, 2);
  client.close();
});

test("a server that is killed is connected to again, and each step is applied once", async () => {
  await using own = await TestServer.start();
  const client = connect(own.address);
  const session = await client.createSession(
    { w: tensor([1], [0]) },
    { optimizer: optimizers.sgd({ learningRate: 1 }) },
  );
  const w = new Float32Array([1]);
  await session.step({ w });
  await own.kill();
  const again = own.start();
  const { step, parameters } = await session.step({ w }, { pull: true });
  await again;
  assert.deepEqual([step, parameters.w], [2, new Float32Array([-2])]);
  client.close();
});

test("messages are found in bytes that are cut anywhere", () => {
  const data = Uint8Array.from({ length: 20_000 }, (_, i) => i);
  const messages = [
    create(StepStreamResponseSchema, { planned: { step: 3n } }),
    create(StepStreamResponseSchema, { result: { step: 4n }, parametersStep: 4n, chunk: { data } }),
    create(StepStreamResponseSchema, { chunk: { byteOffset: 20_000n, data: data.subarray(0, 5000) } }),
    create(StepStreamResponseSchema, { result: { step: 5n } }),
  ].map((message) => toBinary(StepStreamResponseSchema, message));
  const bytes = Buffer.concat(
    messages.flatMap((message) => {
      const prefix = Buffer.alloc(5);
      prefix.writeUInt32BE(message.length, 1);
      return [prefix, message];
    }),
  );
  for (const size of [1, 7, 1000, 4096, 9001, bytes.length]) {
    const received = new Uint8Array(25_000);
    const steps: bigint[] = [];
    let next = 0;
    const splitter = new Splitter((message) => {
      if (message.planned) steps.push(message.planned.step);
      if (message.result) steps.push(message.result.step);
      if (!message.chunk) return;
      assert.equal(Number(message.chunk.byteOffset), next);
      received.set(message.chunk.data, next);
      next += message.chunk.data.length;
    });
    for (let at = 0; at < bytes.length; at += size) splitter.add(Buffer.from(bytes.subarray(at, at + size)));
    assert.deepEqual([steps, next], [[3n, 4n, 5n], 25_000]);
    assert.deepEqual(received.subarray(0, 20_000), data);
  }
});
