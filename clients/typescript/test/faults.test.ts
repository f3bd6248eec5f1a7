import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Code, connect, ErrorReason, type Gradients, OptserveError, optimizers, tensor } from "../src/index.js";
import { Network, python, TestServer, until } from "./server.js";

const ADAM = { optimizer: optimizers.adam({ learningRate: 0.1 }) };

function gradientOf(step: number): Gradients {
  return { w: Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i + step)) };
}

/** A session with parameters of 0, reached over a network that can fail and without one. */
async function journey() {
  const server = await TestServer.start();
  const network = await Network.to(server);
  const client = connect(network.address);
  const direct = connect(server.address);
  const session = await client.createSession({ w: tensor([1000], new Float32Array(1000)) }, ADAM);
  const watched = await direct.session(session.name);
  const stepOf = async () => (await direct.sessions.getSession({ name: session.name })).session?.step;
  return {
    client,
    server,
    network,
    session,
    watched,
    /** Waits until the server has taken a step. */
    reached: (step: number) => until(`step ${step}`, async () => (await stepOf()) === step),
    async [Symbol.asyncDispose]() {
      client.close();
      direct.close();
      await network[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    },
  };
}

/** The parameters after undisturbed steps. */
async function expected(
  direct: Awaited<ReturnType<typeof journey>>,
  steps: number[],
): Promise<Record<string, unknown>> {
  const twin = await direct.client.createSession({ w: tensor([1000], new Float32Array(1000)) }, ADAM);
  for (const step of steps) await twin.step(gradientOf(step));
  return (await twin.pull()).arrays;
}

function failsWith(code: Code, applied: "no" | "unknown"): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof OptserveError, String(error));
    assert.deepEqual([Code[error.code], error.applied], [Code[code], applied]);
    return true;
  };
}

/** Of a server that cannot be reached: the deadline ends an attempt, or the pause before the next one. */
function failsAtDeadline(error: unknown): boolean {
  assert.ok(error instanceof OptserveError, String(error));
  assert.ok([Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED].includes(error.code), String(error));
  assert.equal(error.applied, "unknown");
  return true;
}

test("a step whose answer is lost with its connection is applied once", async () => {
  await using all = await journey();
  const { session, network, reached } = all;
  await session.step(gradientOf(1), { pull: true });
  network.holdBack();
  const second = session.step(gradientOf(2), { pull: true });
  await reached(2);
  network.cut();
  const { step, replayed, parameters } = await second;
  assert.deepEqual([step, replayed], [2, true]);
  assert.deepEqual(parameters, await expected(all, [1, 2]));
});

test("steps in flight survive a server that is killed and started again", async () => {
  await using all = await journey();
  const { session, server, network, reached } = all;
  const stream = session.stream({ window: 4 });
  await stream.step(gradientOf(1));
  network.holdBack();
  const others = [2, 3, 4, 5, 6].map((step) => stream.step(gradientOf(step)));
  await reached(5); // the window is full
  await server.kill();
  network.cut();
  await server.start();
  const results = await Promise.all(others);
  assert.deepEqual(
    results.map(({ step, replayed }) => [step, replayed]),
    [
      [2, true],
      [3, true],
      [4, true],
      [5, true],
      [6, false],
    ],
  );
  await stream.close();
  assert.deepEqual((await session.pull()).arrays, await expected(all, [1, 2, 3, 4, 5, 6]));
});

for (const dataConnections of [false, true]) {
  test(`a step follows soon when the server is back, ${dataConnections ? "with" : "without"} data connections`, async () => {
    await using server = await TestServer.start();
    const client = connect(server.address, { dataConnections });
    const session = await client.createSession({ w: tensor([1000], new Float32Array(1000)) }, ADAM);
    await session.step(gradientOf(1));
    await server.kill();
    const next = session.step(gradientOf(2));
    await server.start(); // on its port
    const begin = performance.now();
    assert.equal((await next).step, 2);
    assert.ok(performance.now() - begin <= 3_000, `${performance.now() - begin} ms after the server`);
    client.close();
  });
}

test("after a deadline in the middle of a stream, the same steps are applied once", async () => {
  await using all = await journey();
  const { session, network, reached } = all;
  const stream = session.stream();
  await stream.step(gradientOf(1));
  network.holdBack();
  const late = assert.rejects(
    stream.step(gradientOf(2), { timeoutMs: 2000 }),
    failsWith(Code.DEADLINE_EXCEEDED, "unknown"),
  );
  const behind = assert.rejects(stream.step(gradientOf(3)), failsWith(Code.ABORTED, "unknown"));
  await reached(3);
  await Promise.all([late, behind]);
  network.cut();
  const again = await Promise.all([2, 3, 4].map((step) => stream.step(gradientOf(step))));
  assert.deepEqual(
    again.map(({ step, replayed }) => [step, replayed]),
    [
      [2, true],
      [3, true],
      [4, false],
    ],
  );
  await stream.close();
  assert.deepEqual((await session.pull()).arrays, await expected(all, [1, 2, 3, 4]));
});

test("after a deadline, other steps follow those that were applied", async () => {
  await using all = await journey();
  const { session, network, reached } = all;
  const other = session.stream();
  await other.step(gradientOf(1));
  network.holdBack();
  const late = assert.rejects(
    other.step(gradientOf(2), { timeoutMs: 2000 }),
    failsWith(Code.DEADLINE_EXCEEDED, "unknown"),
  );
  await reached(2);
  await late;
  network.cut();
  const result = await other.step(gradientOf(3));
  assert.deepEqual([result.step, result.replayed, result.sequence], [3, false, 3]);
  await other.close();
  assert.deepEqual((await session.pull()).arrays, await expected(all, [1, 2, 3]));
});

test("a step is cancelled by its signal, and the next one is taken", async () => {
  await using all = await journey();
  const { session, network, reached } = all;
  await session.step(gradientOf(1));
  network.holdBack();
  const abort = new AbortController();
  const cancelled = assert.rejects(
    session.step(gradientOf(2), { signal: abort.signal }),
    failsWith(Code.CANCELLED, "unknown"),
  );
  await reached(2);
  abort.abort();
  await cancelled;
  network.cut();
  assert.equal((await session.step(gradientOf(2))).replayed, true);
  const unmade = all.client.sessions.getSession({ name: session.name }, { signal: AbortSignal.abort() });
  await assert.rejects(unmade, failsWith(Code.CANCELLED, "no"));
});

test("changes are repeated with their request id", async () => {
  await using all = await journey();
  const { session, network, watched } = all;
  network.holdBack();
  const pushed = session.push({ w: new Float32Array(1000).fill(3) });
  await until("the push", async () => (await watched.pull()).arrays.w?.[0] === 3);
  await watched.step(gradientOf(1));
  network.cut();
  await pushed;
  const { w } = (await session.pull()).arrays;
  assert.ok(w !== undefined && w[1] !== 3, "a second push would have undone the step");
});

test("a restarted program continues under its worker's name", async () => {
  await using all = await journey();
  const { session } = all;
  const first = session.stream({ worker: "worker-1" });
  for (const step of [1, 2, 3]) await first.step(gradientOf(step));
  first.cancel();
  const second = session.stream({ worker: "worker-1" });
  const result = await second.step(gradientOf(4));
  assert.deepEqual([result.step, result.sequence, result.worker], [4, 4, "worker-1"]);
  await second.close();
});

test("an unknown session, one that was deleted, and a step that is not the session's", async () => {
  await using all = await journey();
  const { client, session, watched } = all;
  const fails = (reason: ErrorReason) => (error: unknown) =>
    error instanceof OptserveError && error.reason === reason && error.applied === "no";
  await assert.rejects(client.session("nowhere"), fails(ErrorReason.SESSION_NOT_FOUND));
  await session.step(gradientOf(1));
  await assert.rejects(session.step(gradientOf(2), { expectedStep: 0 }), (error) => {
    assert.ok(fails(ErrorReason.STEP_MISMATCH)(error));
    assert.deepEqual((error as OptserveError).metadata, { current: "1", expected: "0" });
    return true;
  });
  await watched.delete();
  await assert.rejects(session.step(gradientOf(2)), fails(ErrorReason.SESSION_NOT_FOUND));
});

test("without a server, a call fails at its deadline", async () => {
  const client = connect("127.0.0.1:1");
  await assert.rejects(client.capabilities.getCapabilities({}, { timeoutMs: 500 }), failsAtDeadline);
  client.close();
});

test("a closed client takes no steps, and fails those in flight", async () => {
  await using all = await journey();
  const { client, session, network, reached } = all;
  const stream = session.stream();
  await stream.step(gradientOf(1));
  network.holdBack();
  const lost = assert.rejects(stream.step(gradientOf(2)), failsWith(Code.CANCELLED, "unknown"));
  await reached(2);
  client.close();
  await lost;
  await assert.rejects(stream.step(gradientOf(3)), failsWith(Code.CANCELLED, "no"));
});

test("tokens", async () => {
  const folder = mkdtempSync(join(tmpdir(), "optserve-tokens-"));
  const path = join(folder, "tokens.toml");
  const hash = createHash("sha256").update("the-right-token").digest("hex");
  writeFileSync(path, `[[tokens]]\nnamespace = "a"\nsha256 = "${hash}"\n`, { mode: 0o600 });
  await using server = await TestServer.start({ tokens_file: path });
  const unauthenticated = (error: unknown) =>
    error instanceof OptserveError && error.reason === ErrorReason.UNAUTHENTICATED && error.applied === "no";
  for (const token of ["wrong", undefined]) {
    const client = connect(server.address, { token });
    await assert.rejects(client.session("x"), unauthenticated);
    client.close();
  }
  process.env.OPTSERVE_TOKEN = "the-right-token";
  process.env.OPTSERVE_SERVER = server.address;
  const client = connect();
  delete process.env.OPTSERVE_TOKEN;
  delete process.env.OPTSERVE_SERVER;
  const session = await client.createSession({ w: tensor([1], [0]) }, ADAM);
  assert.equal((await session.step({ w: new Float32Array([1]) })).step, 1);
  client.close();
  rmSync(folder, { recursive: true });
});

test("TLS, and mutual TLS", async () => {
  const folder = mkdtempSync(join(tmpdir(), "optserve-tls-"));
  const at = (name: string) => join(folder, name);
  const make = `
import pathlib, sys
from tests.support.certificates import Authority
folder, authority = pathlib.Path(sys.argv[1]), Authority()
(folder / "ca.pem").write_bytes(authority.pem)
authority.pair().write(folder)
authority.pair("client").write(folder, "client")`;
  python("-c", make, folder);
  await using server = await TestServer.start({
    tls_certificate: at("server.pem"),
    tls_key: at("server.key"),
    tls_client_ca: at("ca.pem"),
  });
  const [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map((name) => readFileSync(at(name)));
  const client = connect(server.address, { tls: { ca, cert, key } });
  const session = await client.createSession({ w: tensor([1], [0]) }, ADAM);
  assert.equal((await session.step({ w: new Float32Array([1]) })).step, 1);
  client.close();
  process.env.OPTSERVE_CA = at("ca.pem");
  const stranger = connect(server.address);
  delete process.env.OPTSERVE_CA;
  await assert.rejects(stranger.capabilities.getCapabilities({}, { timeoutMs: 1000 }), failsAtDeadline);
  stranger.close();
  assert.throws(() => connect(server.address, { tls: { cert } }), TypeError);
  rmSync(folder, { recursive: true });
});
