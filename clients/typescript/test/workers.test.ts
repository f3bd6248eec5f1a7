import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import {
  connect,
  ErrorReason,
  type Membership,
  OptserveError,
  optimizers,
  type SessionHandle,
  tensor,
} from "../src/index.js";
import { WorkerState } from "../src/v1.js";
import { TestServer } from "./server.js";

const SYNC = {
  optimizer: optimizers.sgd({ learningRate: 1 }),
  coordination: { mode: { case: "sync" as const, value: {} } },
};
let server: TestServer;

before(async () => {
  server = await TestServer.start();
});

after(() => server[Symbol.asyncDispose]());

const failsWith = (reason: ErrorReason) => (error: unknown) =>
  error instanceof OptserveError && error.reason === reason && error.applied === "no";

test("members of a synchronous session take steps together, and one is fenced", async () => {
  const client = connect(server.address);
  const session = await client.createSession({ w: tensor([1], [0]) }, SYNC);
  const gradient = (value: number) => ({ w: new Float32Array([value]) });
  await assert.rejects(session.step(gradient(1)), failsWith(ErrorReason.NOT_A_MEMBER));
  const members: SessionHandle[] = [];
  const joined: Membership[] = [];
  for (const [rank, worker] of ["a", "b"].entries()) {
    const member = await client.session(session.name, { worker });
    const membership = await member.join({ leaseSeconds: 60 });
    assert.deepEqual([membership.rank, membership.leaseSeconds], [rank, 60]);
    members.push(member);
    joined.push(membership);
  }
  const [a, b] = members as [SessionHandle, SessionHandle];
  for (let step = 1; step <= 3; step++) {
    const results = await Promise.all([a.step(gradient(1), { pull: true }), b.step(gradient(2), { pull: true })]);
    for (const { parameters } of results) assert.deepEqual(parameters.w, new Float32Array([-1.5 * step]));
  }
  const [{ epoch: workerEpoch }] = joined as [Membership];
  await client.workers.renewLease({ session: session.name, worker: "a", workerEpoch });
  const elsewhere = await client.session(session.name, { worker: "a" });
  await elsewhere.join();
  await assert.rejects(a.step(gradient(1)), failsWith(ErrorReason.FENCED));
  await b.leave();
  const { step, sequence } = await elsewhere.step(gradient(1));
  assert.deepEqual([step, sequence], [4, 4]);
  const { workers } = await client.workers.listWorkers({ session: session.name });
  assert.deepEqual(
    workers.map(({ worker, state }) => [worker, state]),
    [
      ["a", WorkerState.ACTIVE],
      ["b", WorkerState.LEFT],
    ],
  );
  client.close();
});

test("a named worker continues after its last step", async () => {
  const client = connect(server.address);
  const made = await client.createSession({ w: tensor([1], [0]) }, { optimizer: optimizers.sgd() });
  for (const sequence of [1, 2, 3]) {
    const session = await client.session(made.name, { worker: "trainer" });
    assert.equal((await session.step({ w: new Float32Array([1]) })).sequence, sequence);
    session.close();
  }
  client.close();
});

test("the workers' example finds the true parameters", async () => {
  const program = join(import.meta.dirname, "../examples/workers.js");
  const { stdout } = await promisify(execFile)(process.execPath, [program, server.address, "4"]);
  assert.match(stdout, /^step 60: w = 1.000, -2.000, 0.500; true 1, -2, 0.5$/m);
});
